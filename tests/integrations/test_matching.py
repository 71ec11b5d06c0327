"""An engine that is not what the host reads is refused, with every difference named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.options import OUTPUTS
from fsfast.errors import EngineError
from fsfast.integrations.matching import HostReads, check_match, differences, output_name


@pytest.fixture
def fitting(demo):
    """What a host reads for which the built-in engine stands."""
    m = demo.manifest
    return {
        "host": "a host",
        "output": "tokens+ln_post",
        "tokens": m.tokens,
        "dim": m.dim,
        "size": (64, 64),
    } | {
        "mean": m.mean,
        "std": m.std,
        "rescale": 1 / 255,
    }


def test_an_engine_that_fits_is_taken(demo, fitting):
    check_match(demo.manifest, HostReads(**fitting))
    # A host that says nothing, and one that says it in float32's digits.
    check_match(demo.manifest, HostReads("a host"))
    check_match(
        demo.manifest,
        HostReads(**fitting | {"mean": [0.48145467, 0.4578275, 0.4082107], "rescale": 0.00392156862}),
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"output": "penultimate"},
            r"layer: wanted penultimate, found tokens\+ln_post; .*--output penultimate",
        ),
        ({"output": "tokens"}, r"layer: wanted tokens, found tokens\+ln_post"),
        ({"class_token": True}, "class token: wanted one, found patch tokens alone"),
        ({"tokens": 65}, "tokens L: wanted 65, found 64"),
        ({"dim": 1024}, "channels D: wanted 1024, found 128"),
        ({"size": (64, 56)}, r"image size: wanted 64×56, found 64×64; .*\[grid\] height = 64, width = 56"),
        ({"mean": (0.5, 0.5, 0.5)}, r"mean: wanted \[0.5, 0.5, 0.5\], found \[0.481"),
        ({"std": (0.5, 0.5)}, r"std: wanted \[0.5, 0.5\], found \[0.268"),
        ({"rescale": 1 / 127.5}, "rescale factor: wanted 0.00784314, found 1/255"),
    ],
)
def test_each_difference_is_named_with_its_remedy(changed, message, demo, fitting):
    with pytest.raises(EngineError, match=f"'demo' does not stand for the tower of a host:\n  {message}"):
        check_match(demo.manifest, HostReads(**fitting | changed))
    assert len(list(differences(demo.manifest, HostReads(**fitting | changed)))) == 1


def test_all_differences_are_named_at_once(demo, fitting):
    changed = {
        "output": "pooled",
        "tokens": 1,
        "dim": 3,
        "size": (224, 224),
        "rescale": 1.0,
        "class_token": True,
    }
    with pytest.raises(EngineError) as caught:
        check_match(demo.manifest, HostReads(**fitting | changed))
    assert str(caught.value).count("\n") == len(changed)


@pytest.mark.parametrize(
    ("output", "ln_post", "name"),
    [
        ("tokens", True, "tokens+ln_post"),
        ("tokens", False, "tokens"),
        ("penultimate", False, "penultimate"),
        ("pooled", True, "pooled"),
        ("merged", True, "merged"),
    ],
)
def test_outputs_have_the_names_of_the_export(demo, output, ln_post, name):
    record = demo.manifest.record | {"output": {"kind": output, "ln_post": ln_post}}
    assert output_name(replace(demo.manifest, output=output, record=record)) == name
    assert OUTPUTS[name] == (output, ln_post)
