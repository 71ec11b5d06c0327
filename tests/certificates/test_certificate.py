"""Certificates: what they claim, their file, and that a replay finds every forgery."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

import fsfast
from fsfast.bounds import mean_lower_bound
from fsfast.bounds.cosine import cosine_lower_bound
from fsfast.errors import CertificateError
from fsfast.kernels import noise_total_variation


@pytest.fixture(scope="module")
def demo():
    with fsfast.SmoothedEncoder("demo") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def certificate(demo, photograph):
    return demo.certify(photograph, n=400, alpha=1e-2, seeds=[77])


@pytest.fixture
def record(certificate):
    return json.loads(json.dumps(certificate.to_record()))


@pytest.fixture
def reread(tmp_path):
    def write_and_load(record):
        (tmp_path / "c.json").write_text(json.dumps(record))
        return fsfast.load_certificate(tmp_path / "c.json")

    return write_and_load


def test_the_bound_is_the_theorem(certificate, demo):
    """S_L is the mixture bound at its share of α, less η; bounds follow from the constants at d = ε/σ."""
    eta = noise_total_variation(0.25, 3 * 64 * 64)
    lower = float(mean_lower_bound(certificate.scores, 0.2 * 1e-2, "mixture")) - eta
    assert certificate.score_lower_bound == pytest.approx(lower, abs=1e-15)
    assert certificate.score_lower_bound <= lower < certificate.mean_score
    known = certificate.constants
    for epsilon in (0.0, 0.1, 0.2):
        assert certificate.cosine(epsilon, "fcsb") == cosine_lower_bound(
            epsilon / 0.25, mean=known.mean, method="fcsb"
        )
        joint = cosine_lower_bound(epsilon / 0.25, mean=known.mean, caps=known.caps, perp=known.perp)
        assert certificate.cosine(epsilon) == joint > certificate.cosine(epsilon, "fcsb")
        assert certificate.curve([epsilon])[0] == pytest.approx(joint, abs=1e-6)


def test_radius_and_cosine_agree(certificate):
    radius = certificate.radius(0.2)
    assert radius > 0
    assert certificate.cosine(radius) >= 0.2
    assert certificate.cosine(radius * (1 + 1e-6)) < 0.2
    assert certificate.cosine(100.0) is None


def test_the_papers_number_is_larger_and_kept_apart(certificate):
    """The plug-in estimate has no confidence bound; nothing uses it unless it is asked for by name."""
    assert certificate.cosine(0.125, method="paper") > certificate.cosine(0.125, method="fcsb")
    assert certificate.cosine(100.0, method="paper") == pytest.approx(-1.0)
    assert {b["method"] for b in certificate.to_record()["bounds"]} == {"joint"}


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_bad_radii(certificate, epsilon):
    with pytest.raises(ValueError, match="ε"):
        certificate.cosine(epsilon)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda c: c.cosine([0.1, 0.2]), r"one number, got list \[0.1, 0.2\]; `curve` takes many"),
        (lambda c: c.cosine(np.array([0.1])), "one number, got ndarray"),
        (lambda c: c.cosine("0.1"), "one number, got str '0.1'"),
        (lambda c: c.cosine(None), "one number, got NoneType"),
        (lambda c: c.inner_product([0.1]), "`curve`"),
        (lambda c: c.served_bound([0.1]), "`curve`"),
        (lambda c: c.curve(0.1), r"\[R\], got float 0.1; `cosine` takes a single one"),
        (lambda c: c.curve([[0.1]]), r"\[R\], got list"),
        (lambda c: c.radius([0.5]), r"a cosine in \(0, 1\] as one number, got list"),
    ],
    ids=range(9),
)
def test_one_radius_or_many(certificate, ask, says):
    with pytest.raises(TypeError, match=says):
        ask(certificate)


def test_nothing_certified_is_said_in_one_way(certificate):
    """None where one bound is asked for, NaN in an array, 0 as a radius, null in a file."""
    far = np.float32(2.0)
    assert certificate.cosine(far) is None
    assert certificate.inner_product(far) is None
    assert certificate.served_bound(far) is None
    np.testing.assert_array_equal(np.isnan(certificate.curve([0.0, far])), [False, True])
    assert certificate.radius(1.0) == 0.0
    assert certificate.to_record([2.0])["bounds"][0]["cosine"] is None
    some = dataclasses.replace(certificate, scores=np.zeros(10), thresholds=())
    assert some.cosine(0.0) is None
    assert np.isnan(some.curve([0.0])).all()
    assert some.radius(0.5) == some.predict(np.eye(certificate.direction.shape[-1])).radius == 0.0
    for bounds in (some.curve([0.0]), certificate.curve([far])):
        assert not (bounds > -1.0).any()
        assert np.isnan(bounds.mean())


def test_all_confidence_methods_and_anchors(demo, photograph):
    bounds = {}
    for method in ("hoeffding", "product", "mixture"):
        for anchor in ("served", "clean"):
            c = demo.certify(photograph, 300, 1e-2, method=method, anchor=anchor, seeds=[3])
            assert demo.verify(c, photograph), (method, anchor)
            assert c.anchor.kind == anchor
            bounds[method, anchor] = c.score_lower_bound
    assert bounds["hoeffding", "served"] < bounds["product", "served"]
    assert bounds["hoeffding", "served"] < bounds["mixture", "served"]


def test_scores_are_stored_as_they_were_used(certificate):
    """Multiples of 2⁻²⁰, rounded down: the file says exactly what the bound was computed from."""
    units = certificate.scores * 2**20
    np.testing.assert_array_equal(units, np.floor(units))


def test_a_file_round_trip_changes_nothing(certificate, tmp_path):
    certificate.save(tmp_path / "cat.cert.json")
    loaded = fsfast.load_certificate(tmp_path / "cat.cert.json")
    assert loaded.to_record() == certificate.to_record()
    assert loaded.cosine(0.1) == certificate.cosine(0.1)
    assert os.listdir(tmp_path) == ["cat.cert.json"]


def test_random_weights_are_marked(certificate, pooled_path, photograph):
    with fsfast.SmoothedEncoder(pooled_path) as encoder:
        drawn = encoder.certify(photograph, n=2)
    for known, random in ((certificate, False), (drawn, True)):
        assert known.random_weights is random
        assert known.to_record()["engine"]["random_weights"] is random
        assert ("random weights" in str(known)) is random


def test_replay_finds_the_same(demo, certificate, photograph, reread, record):
    assert demo.verify(certificate, photograph).verdict == "same"
    found = demo.verify(reread(record), photograph)
    assert (found.verdict, found.details, found.deviation) == ("same", (), 0.0)


def test_replay_on_another_picture(demo, certificate, picture):
    found = demo.verify(certificate, picture)
    assert found.verdict == "different"
    assert "image" in found.details[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 78}, "scores"),
        ({"sigma": 0.125}, "sigma"),
        ({"total_variation": 0.0}, "total variation"),
        ({"random_weights": True}, "random weights"),
        ({"engine": "better"}, "name"),
        ({"grid": (224, 224)}, "grid"),
    ],
    ids=lambda v: str(v),
)
def test_replay_finds_a_forged_constant(demo, certificate, photograph, changes, says):
    found = demo.verify(dataclasses.replace(certificate, **changes), photograph)
    assert found.verdict == "different"
    assert any(says in detail for detail in found.details)


def test_a_forged_function_does_not_hide_forged_constants(certificate, photograph, record, reread):
    """A certificate of "another machine" is held to the engine's own constants all the same."""
    with fsfast.SmoothedEncoder("demo", micro_batch=2) as other:
        found = other.verify(dataclasses.replace(certificate, sigma=2.5, random_weights=True), photograph)
        assert found.verdict == "different"
        assert any("sigma" in detail for detail in found.details)
        lucky = dataclasses.replace(certificate, scores=(certificate.scores + 1.0) / 2.0)
        found = other.verify(lucky, photograph)
        assert found.verdict == "different"
        assert found.deviation == pytest.approx((1.0 - certificate.scores.min()) / 2.0, abs=1e-4)
    record["function_id"] = "0" * 64
    with pytest.raises(CertificateError, match="function_id"):
        reread(record)


# What no replay can check: names, versions, how a seed was chosen, bounds that are stated smaller than they are, and a
# target that would have ended at the same sample (tests/certificates/test_certification.py forges others).
UNCHECKED = (
    ["certification", "stopping"],
    ["image", "name"],
    ["certification", "seed_origin"],
    ["anchor", "seed_origin"],
    ["versions"],
    ["bounds"],
)


def leaves(document, path=()):
    """Yield path and value of everything in a JSON document that is no object or list with content."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        if isinstance(value, (dict, list)) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def altered(path, value):
    """Return values that the schema may take in the place of one."""
    choices = {
        "kind": ["served", "clean"],
        "method": ["mixture", "product", "hoeffding"],
        "seed_origin": ["os", "secret", "replay"],
        "precision": ["float32", "float16"],
        "stopping": [{"epsilon": 0.1, "cosine": 0.5, "n_max": 400, "reason": "reached"}],
        "reason": ["reached", "out of reach", "n_max"],
    }
    if path[-1] in choices:
        return [choice for choice in choices[path[-1]] if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value * (1 + 2.0**-20), value * 0.5] if value else [0.25]
    if isinstance(value, str) and path[-1] != "scores":
        return [("1" if value[-1] != "1" else "2").join([value[:-1], ""])]
    return []


def test_any_tampered_field_is_found(demo, photograph, reread):
    """Every leaf of the document, one by one."""
    stopped = demo.certify(photograph, epsilon=0.05, cosine=0.5, n_max=400, seeds=[4])
    fixed = demo.certify(photograph, 40, seeds=[3])
    missed = []
    for certificate in (fixed, stopped):
        whole = json.loads(json.dumps(certificate.to_record()))
        for path, value in leaves(whole):
            if any(list(path[: len(free)]) == free for free in UNCHECKED):
                continue
            for other in altered(path, value):
                forged = json.loads(json.dumps(whole))
                place = forged
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = other
                try:
                    found = demo.verify(reread(forged), photograph)
                except CertificateError:
                    continue
                missed += [(path, value, other)] if found and not found.notes else []
    assert missed == []


def test_a_certificate_from_other_rounding_is_honest(record, reread):
    """Last bits of logarithms differ between processors: a file may state a little less, never more."""
    constants, cosine = record["constants"], record["bounds"][0]["cosine"]
    lower = constants["mean"]
    constants["mean"] = lower - 1e-15
    record["bounds"][0]["cosine"] = cosine - 1e-14
    assert reread(record).score_lower_bound == lower
    record["bounds"][0]["cosine"] = cosine + 2e-3
    with pytest.raises(CertificateError, match="altered"):
        reread(record)


def test_scores_of_a_certificate_cannot_be_changed(certificate):
    with pytest.raises(ValueError, match="read-only"):
        certificate.scores[0] = 1.0
    assert certificate == certificate
    assert len({certificate}) == 1


def test_replay_finds_a_forged_score(demo, certificate, photograph):
    scores = certificate.scores.copy()
    scores[17] = 1.0
    found = demo.verify(dataclasses.replace(certificate, scores=scores), photograph)
    assert found.verdict == "different"
    assert "scores: 1 of 400" in found.details[0]
    assert found.deviation > 0


def test_replay_finds_a_forged_anchor(demo, certificate, photograph):
    anchor = dataclasses.replace(certificate.anchor, sha256="0" * 64)
    found = demo.verify(dataclasses.replace(certificate, anchor=anchor), photograph)
    assert "anchor" in found.details[0]


def test_replay_elsewhere_gives_the_deviation(certificate, photograph):
    """Another micro-batch is another function: bits cannot be compared, numbers can."""
    with fsfast.SmoothedEncoder("demo", micro_batch=4) as other:
        found = other.verify(certificate, photograph)
    assert found.verdict == "cannot be checked bit for bit here"
    assert "micro_batch" in found.details[0]
    assert found.deviation < 1e-5
    assert not found


def test_replay_with_another_engine(certificate, photograph, pooled_path):
    with (
        fsfast.SmoothedEncoder(pooled_path) as other,
        pytest.raises(CertificateError, match="belongs to the engine 'demo'"),
    ):
        other.verify(certificate, photograph)


@pytest.mark.parametrize(
    "forge",
    [
        lambda r: r["constants"].update(mean=0.9999),
        lambda r: r["constants"]["caps"].__setitem__(0, 0.999),
        lambda r: r["constants"].update(perp=0.0),
        lambda r: r["constants"].update(perp=None),
        lambda r: r["constants"]["caps"].pop(),
        lambda r: r["certification"]["budget"].update(mean=0.01),
        lambda r: r["bounds"][0].update(cosine=0.99),
        lambda r: r["certification"].update(alpha=1e-9),
        lambda r: r["certification"].update(method="hoeffding"),
        lambda r: r.update(sigma=0.125),
        lambda r: r["noise"].update(total_variation=0.1),
    ],
    ids=[
        "mean",
        "cap",
        "perp",
        "no perp",
        "caps",
        "budget",
        "bound",
        "alpha",
        "method",
        "sigma",
        "eta",
    ],
)
def test_a_file_that_contradicts_itself(record, reread, forge):
    forge(record)
    with pytest.raises(CertificateError, match="altered"):
        reread(record)


def test_a_bound_where_there_is_none(demo, photograph, reread):
    """However small: five samples certify nothing."""
    record = demo.certify(photograph, 5, seeds=[1]).to_record()
    assert record["bounds"][0]["cosine"] is None
    record["bounds"][0]["cosine"] = 0.0009
    with pytest.raises(CertificateError, match="altered"):
        reread(record)


def _stopped_with_hoeffding(record):
    """Hoeffding's bound does not hold where sampling could stop."""
    stopping = {"epsilon": 0.25, "cosine": 0.5, "n_max": 1000, "reason": "reached"}
    record["certification"].update(method="hoeffding", stopping=stopping)
    record["perp_norm"] = None


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda r: r.update(schema=2), "upgrade"),
        (lambda r: r.update(format="other"), "not an fsfast certificate"),
        (lambda r: r.pop("anchor"), "anchor"),
        (lambda r: r["certification"].update(alpha=2), "alpha"),
        (lambda r: r["certification"].update(n=401), "401"),
        (lambda r: r.update(scores="%%%"), "malformed"),
        (lambda r: r.update(scores="AAAA"), "malformed"),
        (lambda r: r.update(surprise=1), "malformed"),
        (lambda r: r["anchor"].pop("seed"), "served anchor"),
        (lambda r: r["certification"].update(n=400.0), "integers"),
        (lambda r: r["certification"].update(n=10**30), "malformed"),
        (lambda r: r["anchor"].update(n0=10**12), "malformed"),
        (lambda r: r.update(sigma=float("nan")), "not a number"),
        (lambda r: r["certification"].update(alpha=float("nan")), "not a number"),
        (_stopped_with_hoeffding, "fixed n"),
    ],
    ids=[
        *("schema", "format", "missing", "alpha", "n", "base64", "zlib", "unknown"),
        *("no-seed", "float-n", "huge-n", "huge-n0", "nan-sigma", "nan-alpha", "stopped-hoeffding"),
    ],
)
def test_malformed_files(record, reread, forge, says):
    forge(record)
    with pytest.raises(CertificateError, match=says):
        reread(record)


def test_files_that_are_no_certificates(tmp_path):
    with pytest.raises(CertificateError, match="does not exist"):
        fsfast.load_certificate(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CertificateError, match="not a certificate"):
        fsfast.load_certificate(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(CertificateError, match="not an fsfast certificate"):
        fsfast.load_certificate(tmp_path / "x.json")


def test_a_compression_bomb_is_not_inflated(record, reread):
    import base64
    import zlib

    record["scores"] = base64.b64encode(zlib.compress(bytes(50 << 20))).decode()
    with pytest.raises(CertificateError, match="malformed"):
        reread(record)


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "c.json", "wb") as handle:
        handle.truncate(1 << 32)
    with pytest.raises(CertificateError, match="more than"):
        fsfast.load_certificate(tmp_path / "c.json")


def test_nothing_is_left_behind_when_saving_fails(certificate, tmp_path):
    with pytest.raises(OSError, match="missing"):
        certificate.save(tmp_path / "missing" / "c.json")
    assert os.listdir(tmp_path) == []


def test_features_round_trip(demo, pictures, tmp_path):
    out = demo.encode(pictures, 2, raw_mean=True)
    for name in ("f.safetensors", "f.npz"):
        out.save(tmp_path / name)
        back = fsfast.load_features(tmp_path / name)
        for field in dataclasses.fields(out):
            a, b = getattr(out, field.name), getattr(back, field.name)
            assert np.array_equal(a, b), field.name
        assert len(demo.certify(pictures, 5, served=back)) == 3
    with pytest.raises(ValueError, match="safetensors"):
        out.save(tmp_path / "f.txt")
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(fsfast.FsfastError, match="not a file of smoothed features"):
        fsfast.load_features(tmp_path / "bad.npz")
