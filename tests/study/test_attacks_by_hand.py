"""Every attack's steps against what they are by hand, on one linear layer."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from linear import linear_victim

from fsfast.errors import FsfastError
from study.attacks import distortions, foa_attack, typographic
from study.attacks.catalogue import CHANGES, SPECS, attack_named
from study.attacks.crops import Crops, cropped, random_box
from study.attacks.objectives import Aim, class_objective, score_of
from study.attacks.run import best, run
from study.attacks.spec import AttackSpec, parse_eps, show_eps
from study.targets import Target, class_target, image_target
from study.victim import Noise

# Two features of a picture of one pixel: its red and its green.
RED_GREEN = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def pixel(*levels):
    return torch.tensor(levels, dtype=torch.float32).reshape(1, 3, 1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_attackvlm_turns_a_feature_by_steps_of_the_signs():
    """The cosine of (r, g) to (0, 1) has the gradient (−rg, r²)/|·|³: red falls, green rises, blue stays."""
    victim, levels = linear_victim(RED_GREEN), pixel(100.0, 50.0, 77.0)
    target = image_target(victim, pixel(0.0, 90.0, 0.0))
    spec = SPECS["attackvlm"]
    for steps, change in ((1, 1.0), (5, 5.0), (300, 16.0)):
        aim = Aim(AttackSpec("attackvlm", steps=steps), victim, levels, target)
        assert run(aim).flatten().tolist() == [100.0 - change, 50.0 + change, 77.0]
    assert (spec.eps, spec.alpha, spec.steps, spec.starts) == (16 / 255, 1 / 255, 300, ("image",))


def test_images_of_a_batch_have_their_own_targets_and_do_not_meet():
    victim = linear_victim(RED_GREEN)
    levels = torch.cat([pixel(100.0, 50.0, 0.0), pixel(60.0, 60.0, 0.0)])
    target = image_target(victim, torch.cat([pixel(0.0, 90.0, 0.0), pixel(90.0, 0.0, 0.0)]))
    found = run(Aim(SPECS["attackvlm"].at(4 / 255), victim, levels, target))
    assert found[:, :2].flatten(1).tolist() == [[96.0, 54.0], [64.0, 56.0]]


def test_the_global_feature_is_the_mean_over_unit_tokens():
    weight = torch.eye(6)[:4]
    victim = linear_victim(weight, tokens=2)
    levels = torch.tensor([3.0, 4.0, 0.0, 2.0, 0.0, 0.0]).reshape(1, 3, 1, 2)
    # Units (.6, .8) and (0, 1) over √2.
    torch.testing.assert_close(victim.clean(levels)[0], torch.tensor([[0.6, 0.8], [0.0, 1.0]]) / math.sqrt(2))
    target = Target(levels, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]) / math.sqrt(2))
    of_all = score_of(Aim(AttackSpec("x", features="tokens"), victim, levels, target), "cosine")
    of_mean = score_of(Aim(AttackSpec("x"), victim, levels, target), "cosine")
    assert of_all(levels, 0).item() == pytest.approx(0.3)
    assert of_mean(levels, 0).item() == pytest.approx(0.6 / math.hypot(0.6, 1.8))


def test_objectives_of_a_class():
    scores, classes = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([2])
    assert class_objective(scores, classes, "score").item() == pytest.approx(0.3)
    assert class_objective(scores, classes, "margin").item() == pytest.approx(-0.2)
    log_sum = math.log(sum(math.exp(50 * s) for s in (0.2, 0.5, 0.3)))
    assert class_objective(scores, classes, "cross-entropy").item() == pytest.approx(15 - log_sum, abs=1e-4)


def test_a_class_attack_raises_its_score():
    victim = linear_victim(RED_GREEN, classes=[[1.0, 0.0], [0.0, 1.0]])
    aim = Aim(
        AttackSpec("x", objectives=("margin",)),
        victim,
        pixel(100.0, 50.0, 77.0),
        class_target(victim, "1", 1),
    )
    assert run(aim).flatten().tolist() == [84.0, 66.0, 77.0]
    with pytest.raises(FsfastError, match=r"one of 2 classes, got '7'"):
        class_target(victim, "7", 1)


def test_m_attack_compares_crops_of_both_and_its_gradient_reaches_the_cropped_pixels_alone():
    victim = linear_victim(torch.randn(4, 3 * 8 * 8, generator=generator()))
    levels = 255 * torch.rand(1, 3, 8, 8, generator=generator(1))
    target = image_target(victim, 255 * torch.rand(1, 3, 8, 8, generator=generator(2)))
    spec = SPECS["m-attack"]
    crops = Crops(spec.crops, spec.seed)
    score, x = score_of(Aim(spec, victim, levels, target), "cosine"), levels.clone().requires_grad_(True)
    own, other = (
        victim.clean(crops(each, 5, name)) for each, name in ((x, "source"), (target.levels, "target"))
    )
    value = score(x, 5)
    assert value.item() == pytest.approx(F.cosine_similarity(own.flatten(1), other.flatten(1)).item())
    (gradient,) = torch.autograd.grad(value, x)
    touched = torch.zeros(8, 8)
    ones = torch.ones_like(x, requires_grad=True)
    crops(ones, 5, "source").sum().backward()
    touched = ones.grad[0, 0] != 0
    assert not touched.all()
    assert torch.equal(gradient[0].abs().sum(0) != 0, touched)
    assert not torch.equal(crops(levels, 5, "source"), crops(levels, 6, "source"))


def test_boxes_have_the_areas_and_proportions_that_are_asked_for():
    boxes = [random_box((224, 200), (0.5, 0.9), generator(seed)) for seed in range(300)]
    for top, left, h, w in boxes:
        assert 0 <= top <= 224 - h
        assert 0 <= left <= 200 - w
        assert 0.49 < h * w / (224 * 200) < 0.91
        assert 0.74 < w / h < 1.35
    assert len({box[0] for box in boxes}) > 20
    # No box of these proportions covers so narrow an image.
    assert random_box((8, 800), (0.99, 1.0), generator()) == (0, 0, 8, 800)


def test_crops_are_magnified_between_the_middles_of_pixels():
    levels = torch.arange(4.0).expand(1, 3, 4, 4)
    assert torch.equal(cropped(levels, [(0, 0, 4, 4)]), levels)
    assert cropped(levels, [(0, 1, 4, 2)])[0, 0, 0].tolist() == [1.0, 1.25, 1.75, 2.0]


def test_clusters_are_means_and_their_gradient_goes_to_the_members():
    points = torch.tensor(
        [[[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 4.0], [12.0, 2.0]]], requires_grad=True
    )
    centres = foa_attack.clusters(points, generator(), 2)
    found = sorted(centres[0].tolist())
    assert found[0] == pytest.approx([0.0, 1.0])
    assert found[1] == pytest.approx([32 / 3, 2.0])
    first = int(centres[0, :, 0].argmin())
    (gradient,) = torch.autograd.grad(centres[0, first, 0], points)
    assert gradient[0, :, 0].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
    # As many clusters as tokens, at most.
    assert foa_attack.clusters(points, generator(), 10).shape == (1, 5, 2)


def test_clusters_that_lose_their_members_stay_finite():
    points = torch.zeros(1, 12, 3)
    assert torch.equal(foa_attack.clusters(points, generator()), torch.zeros(1, 10, 3))


def test_channels_are_divided_by_their_norm_over_the_tokens():
    tokens = torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])
    torch.testing.assert_close(foa_attack.over_tokens(tokens), torch.tensor([[[0.6, 0.0], [0.8, 1.0]]]))


def test_transport_of_one_to_one_is_the_cosine():
    a, b = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert foa_attack.transport(a, b).item() == pytest.approx(0.6)


def test_transport_pairs_what_is_alike_and_keeps_the_marginals():
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # Rows of exp(0) and exp(−10): the plan is half on each like pair.
    like = foa_attack.transport(a, a.flip(1)).item()
    assert like == pytest.approx(1 / (1 + math.exp(-10.0)), abs=1e-6)
    b = torch.randn(3, 7, 5, generator=generator(1))
    c = torch.randn(3, 4, 5, generator=generator(2))
    similar = F.normalize(b, dim=-1) @ F.normalize(c, dim=-1).transpose(1, 2)
    plan = foa_attack._plan(similar)
    torch.testing.assert_close(plan.sum(1), torch.full((3, 4), 0.25), atol=0.02, rtol=0)
    torch.testing.assert_close(plan.sum((1, 2)), torch.ones(3), atol=0.05, rtol=0)
    # Images are transported on their own, however long the others take.
    torch.testing.assert_close(foa_attack._plan(similar[:1]), plan[:1])


def test_the_smoothed_score_is_the_cosine_of_the_mean_over_its_noises_and_memory_does_not_change_it():
    weight, levels = (
        torch.randn(4, 12, generator=generator()),
        255 * torch.rand(2, 3, 2, 2, generator=generator(1)),
    )
    spec = SPECS["eot-4"]
    found = []
    for rows in (64, 2):
        victim = linear_victim(weight, tokens=2, rows=rows)
        target = image_target(victim, levels.flip(0))
        x = levels.clone().requires_grad_(True)
        value = score_of(Aim(spec, victim, levels, target), "cosine")(x, 3)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), x)))
        noise = victim.fresh(4, spec.seed, "eot", 3)
        mean = torch.stack([victim.function(noise.add(levels, i)) for i in range(4)]).mean(0)
        expected = F.cosine_similarity(mean.flatten(1), target.features.flatten(1))
        torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(found[0], found[1])


def test_the_noise_of_an_attack_is_its_own_in_every_step_and_for_every_image():
    victim, levels = linear_victim(RED_GREEN), torch.zeros(2, 3, 4, 4)
    first, second = (victim.fresh(2, 0, "eot", step) for step in (0, 1))
    drawn = [first.add(levels, 0), first.add(levels, 1), second.add(levels, 0), first.add(levels, 0)]
    assert torch.equal(drawn[0], drawn[3])
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert torch.equal(drawn[0], drawn[0].round())


def test_the_best_of_several_runs_counts_image_by_image():
    victim = linear_victim(RED_GREEN)
    levels = torch.cat([pixel(100.0, 50.0, 0.0), pixel(50.0, 100.0, 0.0)])
    target = image_target(victim, torch.cat([pixel(0.0, 90.0, 0.0), pixel(0.0, 90.0, 0.0)]))
    aim = Aim(SPECS["eot-4"], victim, levels, target)
    good, bad = pixel(0.0, 200.0, 0.0), pixel(200.0, 0.0, 0.0)
    found = best(aim, [torch.cat([good, bad]), torch.cat([bad, good])])
    assert torch.equal(found, torch.cat([good, good]))


def test_an_attack_inside_the_certified_ball_uses_all_of_its_radius():
    victim, levels = linear_victim(RED_GREEN), pixel(100.0, 100.0, 77.0)
    spec = AttackSpec(
        "l2", eps=2.0, norm="l2", alpha=None, away=True, features="tokens", starts=("random",), steps=30
    )
    found = run(Aim(spec, victim, levels, Target()), torch.tensor([10 / 255]))
    change = (found - levels).flatten()
    assert change.norm() <= 20.0
    # The largest angle is where a line through black touches the ball: 20·(cos θ·(1, −1) − sin θ·(1, 1))/√2 with
    # sin θ = √2/10.
    assert sorted(change[:2].abs().tolist()) == [12.0, 16.0]
    assert change[0] * change[1] < 0
    assert abs(change[2]) <= 1


def test_a_purifier_is_attacked_by_the_distance_of_what_it_makes():
    victim, levels = linear_victim(RED_GREEN), pixel(100.0, 50.0, 77.0)
    spec = SPECS["purifier"]
    score = score_of(Aim(spec, victim, levels, Target()), "distance")
    # Without a purifier what the encoder sees is noisy/255: the distance is that of the images.
    assert score(levels + pixel(3.0, 4.0, 0.0), 0).item() == pytest.approx(5 / 255)
    with pytest.raises(FsfastError, match="attacks a purifier, and this engine has none"):
        run(Aim(spec, victim, levels, Target()))


def test_what_an_attack_needs_is_said():
    victim, levels = linear_victim(RED_GREEN, classes=[[1.0, 0.0], [0.0, 1.0]]), pixel(1.0, 2.0, 3.0)
    with pytest.raises(FsfastError, match="give one as --target, not a class"):
        run(Aim(SPECS["foa-attack"], victim, levels, class_target(victim, "0", 1)))
    with pytest.raises(FsfastError, match="needs certified radii"):
        run(Aim(SPECS["l2-1"], victim, levels, Target()))
    with pytest.raises(FsfastError, match=r"got 'atackvlm'; did you mean 'attackvlm'"):
        attack_named("atackvlm")
    assert attack_named("jpeg") is None
    with pytest.raises(ValueError, match=r"in \(0, 1\].*got '16'"):
        parse_eps("16")
    assert show_eps(parse_eps("16/255")) == "16/255"


def test_a_word_is_pasted_at_the_lower_edge_and_the_rest_stays():
    levels = torch.full((1, 3, 64, 64), 90.0)
    found = typographic.pasted(levels, ["star"])
    changed = (found != levels).any(1)[0]
    assert not changed[:40].any()
    assert (found[0, :, changed] == 255).float().mean() > 0.3
    assert found.min() < 60
    # Long words are made to fit.
    wide = typographic.pasted(levels, ["great white"])
    assert (wide[0, 0, :, [0, 63]] == 90.0).all()


@pytest.mark.parametrize("name", CHANGES[1:])
def test_distortions_keep_shape_and_levels(name):
    y, x = np.mgrid[0:32, 0:32]
    levels = torch.from_numpy(np.stack([x * x // 4, y * 8, 255 - x * 4])).float()[None]
    found = distortions.distorted(levels, name)
    assert found.shape == levels.shape
    assert torch.equal(found, found.round())
    assert not torch.equal(found, levels)
    if name == "brightness":
        assert torch.equal(found, (1.5 * levels).round().clamp_max(255))
    if name == "blur":
        assert (found - levels).abs()[..., 4:-4, 4:-4].max() <= 2


def test_noise_of_one_kind_reaches_every_sample():
    victim = linear_victim(RED_GREEN, rows=3)
    noise = Noise(5, lambda levels, sample: levels + 10.0 * sample)
    levels = torch.cat([pixel(100.0, 50.0, 0.0), pixel(50.0, 100.0, 0.0)])
    expected = torch.stack([victim.function(levels + 10.0 * i) for i in range(5)]).mean(0)
    torch.testing.assert_close(victim.mean(levels, noise), expected)
