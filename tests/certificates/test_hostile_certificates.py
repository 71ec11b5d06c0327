"""Certificates that order too much work, or hide something: refused in one plain line before any of it is done."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

import fsfast
from fsfast.certificates import lines
from fsfast.certificates.reading import parse_certificate
from fsfast.certificates.writing import to_record
from fsfast.errors import CertificateError
from tests.written_before import FOLDER as DATA


@pytest.fixture(scope="module")
def encoder():
    with fsfast.SmoothedEncoder(DATA / "engine", backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture
def record(encoder):
    return to_record(encoder.certify(DATA / "image.png", 24, 0.05, n0=2, seeds=[7]))


def test_a_small_file_that_orders_days_of_serving_samples(encoder, record):
    record["anchor"]["n0"] = 2**32 - 1
    with pytest.raises(CertificateError, match=r"needs 4,29.*at most 100,000.*FSFAST_MAX_REPLAY_SAMPLES"):
        encoder.verify(parse_certificate(record), DATA / "image.png")


def test_a_small_file_that_orders_days_of_scores(encoder, record, monkeypatch):
    """Equal scores compress to nothing."""
    certificate = parse_certificate(record)
    many = np.full(200_000, certificate.scores[0])
    forged = {**vars(certificate), "scores": many, "perp_norm": certificate.perp_norm}
    forged.pop("constants", None)
    large = type(certificate)(**forged)
    assert len(json.dumps(to_record(large))) < 20_000
    for call in (encoder.verify, encoder.certify_anew):
        with pytest.raises(CertificateError, match="FSFAST_MAX_REPLAY_SAMPLES"):
            call(large, DATA / "image.png")
    monkeypatch.setenv("FSFAST_MAX_REPLAY_SAMPLES", "1e6")
    monkeypatch.setattr(fsfast.certificates.replay, "draw", lambda *_: pytest.skip("it would be done"))
    encoder.verify(large, DATA / "image.png")


def test_bytes_behind_the_scores(record):
    packed = base64.b64decode(record["scores"])
    record["scores"] = base64.b64encode(packed + b"something else").decode()
    with pytest.raises(CertificateError, match="14 behind them"):
        parse_certificate(record)
    record["scores"] = base64.b64encode(zlib.compress(zlib.decompress(packed)) + b"\0").decode()
    with pytest.raises(CertificateError, match="1 behind them"):
        parse_certificate(record)


def test_a_file_of_certificates_that_does_not_fit(tmp_path, record, monkeypatch):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(record) + "\n")
    monkeypatch.setenv(lines.FILE.variable, "0.001")
    with pytest.raises(
        CertificateError, match=r"reading .*lines\.jsonl needs .* set FSFAST_MAX_CERTIFICATES_MB"
    ):
        fsfast.load_certificates(path)


def test_another_alpha_is_another_statement(encoder, record):
    """The same scores prove another bound at another α; docs/certificates.md says that no replay can tell."""
    certificate = parse_certificate(record)
    other = type(certificate)(
        **{**{k: v for k, v in vars(certificate).items() if k != "constants"}, "alpha": 0.5}
    )
    assert encoder.verify(parse_certificate(to_record(other)), DATA / "image.png").verdict == "same"
    text = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text(encoding="utf-8")
    assert "another α" in text


def test_half_a_character_is_no_text(tmp_path, record):
    """Python reads it and cannot write it; other readers refuse it."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps(record).replace("image.png", r"\ud800image.png"))
    assert r"\ud800" in path.read_text()
    with pytest.raises(CertificateError, match=r"half a character: \\ud800"):
        fsfast.load_certificate(path)
    path.write_text(json.dumps(record).replace("image.png", r"\ud83d\ude00.png"))
    assert fsfast.load_certificate(path).image_name.endswith("😀.png")


def test_many_small_lines_that_inflate_to_much(tmp_path, record, monkeypatch):
    path = tmp_path / "lines.jsonl"
    path.write_text((json.dumps(record) + "\n") * 8)
    assert len(fsfast.load_certificates(path)) == 8
    # Here the text is larger than the scores; only they count.
    monkeypatch.setattr(lines, "read_file", lambda _: ([record] * 8, b""))
    monkeypatch.setenv(lines.FILE.variable, str(3.5 * 24 * 8 / 1e6))
    with pytest.raises(CertificateError, match=r"holds up to line 4 needs .* set FSFAST_MAX_CERTIFICATES_MB"):
        fsfast.load_certificates(path)
