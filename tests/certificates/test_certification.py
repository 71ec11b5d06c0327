"""Certification as its users meet it: stopping early, tokens, predictions, what is served, noise that is fresh."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fsfast
from fsfast.bounds import mean_lower_bound, proportion_lower_bound
from fsfast.bounds.cosine import cosine_lower_bound
from fsfast.certificates.certification import decide, length_across, looks, plan_of
from fsfast.certificates.replay import contradictions
from fsfast.errors import CertificateError
from fsfast.report.examples import load_examples
from fsfast.runtime.features import anchor_of


@pytest.fixture(scope="module")
def demo():
    with fsfast.SmoothedEncoder("demo") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def digits():
    return [str(example.image) for example in load_examples()[:3]]


@pytest.fixture(scope="module")
def early(demo, digits):
    return demo.certify(digits, epsilon=0.25, cosine=0.5, n_max=400, seeds=[1, 2, 3])


def test_sampling_stops_when_the_target_is_certified(early):
    for certificate in early:
        assert certificate.stopping.reason == "reached"
        assert certificate.n < 400
        assert certificate.cosine(0.25) >= 0.5
        assert certificate.perp_norm is None


def test_where_it_stopped_does_not_depend_on_the_batch(demo, digits, early):
    alone = demo.certify(digits[1], epsilon=0.25, cosine=0.5, n_max=400, seeds=[2])
    np.testing.assert_array_equal(alone.scores, early[1].scores)
    with fsfast.SmoothedEncoder("demo", threads=1) as single:
        again = single.certify(digits, epsilon=0.25, cosine=0.5, n_max=400, seeds=[1, 2, 3])
    assert [c.to_record() for c in again] == [c.to_record() for c in early]


def test_the_samples_are_those_of_a_fixed_number(demo, digits, early):
    fixed = demo.certify(digits[0], early[0].n, seeds=[1])
    np.testing.assert_array_equal(fixed.scores, early[0].scores)
    assert fixed.thresholds == early[0].thresholds
    assert fixed.cosine(0.25) > early[0].cosine(0.25)


def test_a_hopeless_target_is_given_up(demo, digits):
    certificate = demo.certify(digits[0], epsilon=2.0, n_max=2000, seeds=[1])
    assert certificate.stopping.reason == "out of reach"
    assert certificate.n < 300
    assert certificate.cosine(2.0) is None


def test_looks_end_at_n_max():
    assert list(looks(10)) == [10]
    places = list(looks(1000))
    assert places[0] == 32
    assert places[-1] == 1000
    assert places == sorted(set(places))


def test_giving_up_needs_more_than_bad_luck():
    """Scores that will do in the long run are not given up early; scores that never will are."""
    plan = plan_of(None, 1e-3, "mixture", 0.25, 0.5, None, False)
    rng = np.random.default_rng(0)
    good, bad = rng.beta(60, 3, 200), rng.beta(3, 3, 200)
    assert decide(good[:32], (0.9,), 2.0, 0.9, plan, 0.0) is None
    assert decide(bad, (0.6,), 1.0, 0.5, plan, 0.0) == "out of reach"
    assert decide(rng.beta(600, 3, 2000), (0.99,), 0.5, 0.5, plan, 0.0) == "reached"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cosine": 0.5}, "epsilon"),
        ({"n_max": 5}, "epsilon"),
        ({"epsilon": 0.1, "n": 5}, "n_max instead of n"),
        ({"epsilon": 0.1, "per_token": True}, "per_token"),
        ({"epsilon": 0.1, "method": "hoeffding"}, "hoeffding"),
        ({"epsilon": -1.0}, "epsilon ≥ 0"),
        ({"epsilon": float("nan")}, "epsilon ≥ 0"),
        ({"epsilon": 0.1, "cosine": 1.0}, r"\(0, 1\)"),
        ({"epsilon": 0.1, "n_max": 0}, "n_max"),
        ({"alpha": True}, "alpha"),
    ],
)
def test_contradicting_arguments(demo, picture, arguments, says):
    with pytest.raises(ValueError, match=says):
        demo.certify(picture, **arguments)


@pytest.fixture(scope="module")
def tokens(demo, digits):
    return demo.certify(digits[0], 300, per_token=True, seeds=[5])


def test_tokens_have_certificates_of_their_own(demo, tokens):
    assert tokens.token_scores.shape == (300, demo.manifest.tokens)
    np.testing.assert_allclose(tokens.token_scores.mean(1), tokens.scores, atol=2e-6)
    bounds = tokens.token_cosine(0.1)
    assert bounds.shape == (demo.manifest.tokens,)
    alpha = 0.5 * tokens.alpha / demo.manifest.tokens
    lower = mean_lower_bound(tokens.token_scores[:, 7], alpha) - tokens.total_variation
    assert bounds[7] == pytest.approx(cosine_lower_bound(0.4, mean=lower, method="sharp"), abs=1e-9)
    assert np.isnan(tokens.token_cosine(5.0)).all()
    # Half of α is left for the image.
    assert tokens.budget.mean == pytest.approx(0.1 * tokens.alpha)


def test_the_share_of_tokens_that_turned_is_bounded(tokens):
    shares = [tokens.tokens_below(epsilon, 0.5) for epsilon in (0.0, 0.1, 0.3, 5.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] == 1.0


def test_tokens_that_were_not_certified_say_so(early):
    with pytest.raises(ValueError, match="per_token=True"):
        early[0].token_cosine(0.1)


def test_a_prediction_holds_until_the_certified_angle_reaches_the_boundary(demo, digits):
    served = demo.encode(digits[0], seeds=[4])
    certificate = demo.certify(digits[0], 300, served=served)
    prediction = certificate.predict(demo.classes)
    assert prediction.name == demo.classes.predict(served.unit)[0]
    np.testing.assert_allclose(prediction.scores, demo.classes.scores(served.unit)[0], atol=1e-12)
    assert prediction.radius > 0.05
    # At the radius the angle is that to the nearest boundary between two classes.
    classes = demo.classes.features.astype(np.float64)
    unit = classes / np.linalg.norm(classes, axis=1, keepdims=True)
    differences = np.delete(unit[prediction.index] - unit, prediction.index, axis=0)
    tokens = anchor_of(served.unit[0])
    sines = (tokens @ differences.T).mean(0) / np.linalg.norm(differences, axis=1)
    assert np.arccos(certificate.cosine(prediction.radius)) == pytest.approx(np.arcsin(sines.min()), abs=1e-3)
    by_hand = certificate.predict(demo.classes.features, served)
    assert (by_hand.index, by_hand.radius) == (prediction.index, prediction.radius)
    assert by_hand.name == str(prediction.index)


def test_a_certificate_from_a_file_predicts_with_what_was_served(demo, digits, tmp_path):
    served = demo.encode(digits[:2])
    certificate = demo.certify(digits[0], 100, served=served[0])
    certificate.save(tmp_path / "c.json")
    loaded = fsfast.load_certificate(tmp_path / "c.json")
    with pytest.raises(ValueError, match="pass served="):
        loaded.predict(demo.classes)
    with pytest.raises(ValueError, match="another one"):
        loaded.predict(demo.classes, served[1])
    assert loaded.predict(demo.classes, served[0]) == certificate.predict(demo.classes)
    with pytest.raises(ValueError, match=r"\[K, D\]"):
        certificate.predict(np.ones(128))


def test_what_is_served_has_a_weaker_bound(demo, digits):
    certificate = demo.certify(digits[0], 500, n0=16)
    bound = certificate.served_bound(0.05, 0.99)
    assert 0 < bound < certificate.cosine(0.05)
    assert certificate.served_bound(0.05, 0.9) >= bound
    assert certificate.served_bound(3.0) is None
    clean = demo.certify(digits[0], 50, anchor="clean")
    with pytest.raises(ValueError, match="served direction"):
        clean.served_bound(0.05)


def test_the_length_across_is_that_of_the_mean_feature(demo, digits):
    certificate = demo.certify(digits[0], 40, seeds=[6])
    unit = anchor_of(demo.encode(digits[0], seeds=[6]).unit[0])
    rng = np.random.default_rng(0)
    mean = rng.normal(size=unit.shape)
    flat, anchor = mean.ravel() / 8, unit.ravel() / 8
    wanted = np.linalg.norm(flat - (flat @ anchor) * anchor)
    assert length_across(mean, unit) == pytest.approx(wanted, rel=1e-8)
    assert length_across(mean, unit) > wanted
    assert 0 < certificate.perp_norm < np.sqrt(1 - certificate.constants.mean**2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"perp_norm": 0.0}, "perp_norm"),
        ({"thresholds": (0.9,)}, "thresholds"),
        ({"thresholds": ()}, "thresholds"),
        ({"seed": 1}, "scores"),
    ],
    ids=str,
)
def test_replay_finds_forged_evidence(demo, digits, changes, says):
    certificate = demo.certify(digits[0], 60, seeds=[8])
    assert demo.verify(certificate, digits[0])
    found = demo.verify(dataclasses.replace(certificate, **changes), digits[0])
    assert found.verdict == "different"
    assert any(says in detail for detail in found.details)


def test_replay_finds_forged_tokens(demo, digits, tokens):
    assert demo.verify(tokens, digits[0])
    forged = tokens.token_scores.copy()
    forged[3, 3] += 2.0**-20
    found = demo.verify(dataclasses.replace(tokens, token_scores=forged), digits[0])
    assert found.details == ("the scores of the tokens: they do not come from the stated seed",)


def test_a_stopped_certificate_replays(demo, digits, early):
    assert [demo.verify(c, image).verdict for c, image in zip(early, digits, strict=True)] == ["same"] * 3


@pytest.mark.parametrize(
    "changes",
    [{"epsilon": 0.3}, {"cosine": 0.9}, {"n_max": 50}, {"n_max": 390}, {"reason": "out of reach"}],
    ids=str,
)
def test_replay_finds_a_forged_target(demo, digits, early, changes):
    stopping = dataclasses.replace(early[0].stopping, **changes)
    found = demo.verify(dataclasses.replace(early[0], stopping=stopping), digits[0])
    # With another n_max the same samples would have been drawn, as far as they go.
    if changes == {"n_max": 390}:
        assert found
        return
    assert found.verdict == "different"
    assert found.details[0].startswith("the stopping: ")


def test_a_certificate_that_could_not_be_read_again_is_refused(demo, digits):
    with pytest.raises(ValueError, match="10,000,000 scores"):
        demo.certify(digits[0], 200_000, per_token=True)


def test_fresh_noise_confirms_an_honest_certificate(demo, digits, early):
    certificate = demo.certify(digits[0], 200, seeds=[9])
    for stated in (certificate, early[0]):
        fresh = demo.certify_anew(stated, digits[0])
        assert fresh.seed != stated.seed
        assert fresh.seed_origin == "os"
        assert fresh.anchor.sha256 == stated.anchor.sha256
        assert (fresh.alpha, fresh.stopping is None) == (stated.alpha, stated.stopping is None)
        assert contradictions(stated, fresh) == []
        assert demo.verify(fresh, digits[0])
    with pytest.raises(CertificateError, match="not the certified one"):
        demo.certify_anew(certificate, digits[1])


def test_a_share_is_refuted_only_by_a_bound_that_survives_stopping(demo, digits, early):
    """Sampling that gives up early ends exactly where luck was bad; a bound for a fixed n would refute too often."""
    tau = early[0].constants.caps[0][0]
    missed = np.arange(100) < 23
    scores = np.where(missed, 0.0, (1.0 + tau) / 2.0)
    unlucky = dataclasses.replace(early[0], scores=scores)
    stated = dataclasses.replace(early[0], scores=np.full(100, (1.0 + tau) / 2.0))
    share = stated.constants.caps[0][1]
    clopper_pearson = 1.0 - float(proportion_lower_bound(23, 100, stated.alpha))
    anytime = 1.0 - float(mean_lower_bound(missed.astype(float), stated.alpha))
    assert clopper_pearson < share < anytime
    found = contradictions(stated, unlucky)
    assert not any("share" in detail for detail in found)
    fixed = dataclasses.replace(unlucky, stopping=None)
    assert any("share" in detail for detail in contradictions(stated, fixed))


def test_fresh_noise_refutes_what_was_made_up(demo, digits):
    honest = demo.certify(digits[0], 400, seeds=[10])
    worse = dataclasses.replace(honest, scores=honest.scores - 0.125)
    assert any("mean score" in detail for detail in contradictions(honest, worse))
    assert contradictions(worse, honest) == []
    raised = dataclasses.replace(honest, thresholds=(1.0 - 2.0**-20,), scores=np.full(400, 1.0))
    assert any("share of inner products" in d for d in contradictions(raised, honest))
