"""Certificates name the secret that gave their seeds, so that it can be replaced."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

import fsfast
from fsfast.certificates.reading import parse_certificate
from fsfast.runtime.seeds import key_id, seed_from_secret

OLD, NEW = b"the secret of the last year", b"the secret of this year"


@pytest.fixture(scope="module")
def old():
    with fsfast.SmoothedEncoder("demo", secret=OLD) as opened:
        yield opened


@pytest.fixture(scope="module")
def new():
    with fsfast.SmoothedEncoder("demo", secret=NEW) as opened:
        yield opened


@pytest.fixture(scope="module")
def certificate(old, photograph):
    return old.certify(photograph, 20, progress=False)


def test_a_key_id_is_stable_and_no_seed(old, new, photograph):
    assert re.fullmatch("[0-9a-f]{16}", old.seeds.key_id)
    assert old.seeds.key_id == key_id(OLD) != new.seeds.key_id
    # Files of last year still name the secret that they are looked up by.
    assert key_id(b"sixteen bytes or more") == "f3e0332496949500"
    (item,) = old.prepare([photograph])
    seed = seed_from_secret(OLD, "", old.engine_digest, old.sigma, item.pixels)
    assert seed.to_bytes(8, "little").hex() != key_id(OLD)


def test_without_a_secret_there_is_no_key(photograph):
    with fsfast.SmoothedEncoder("demo") as encoder:
        assert encoder.seeds.key_id is None
        made = encoder.certify(photograph, 20, progress=False)
    assert made.key_id is made.anchor.key_id is None
    record = made.to_record()
    assert "key_id" not in record["certification"]
    assert "key_id" not in record["anchor"]


def test_a_certificate_names_the_secret_and_keeps_it_in_its_file(old, certificate, photograph, tmp_path):
    assert certificate.key_id == certificate.anchor.key_id == old.seeds.key_id
    certificate.save(tmp_path / "certificate.json")
    again = fsfast.load_certificate(tmp_path / "certificate.json")
    assert again.key_id == again.anchor.key_id == old.seeds.key_id
    assert old.verify(again, photograph)


def test_a_seed_that_the_caller_chose_has_no_key(old, photograph):
    made = old.certify(photograph, 20, seeds=[7], progress=False)
    assert made.key_id is made.anchor.key_id is None


def test_an_anchor_that_was_served_under_the_old_secret_does_not_get_the_new_ones_name(old, new, photograph):
    served = old.encode(photograph)
    assert old.certify(photograph, 20, served=served, progress=False).anchor.key_id == old.seeds.key_id
    made = new.certify(photograph, 20, served=served, progress=False)
    assert (made.key_id, made.anchor.key_id) == (new.seeds.key_id, None)


def test_after_a_rotation_old_certificates_are_replayed(new, certificate, photograph):
    assert new.verify(certificate, photograph).verdict == "same"


@pytest.mark.parametrize("which", ["certification", "anchor"])
def test_who_has_the_secret_finds_a_seed_that_is_not_its(old, photograph, which):
    """A replay alone cannot: the noise is that of the stated seed."""
    lucky = old.certify(photograph, 20, seeds=[7], progress=False)
    about = dataclasses.replace(lucky.anchor, seed_origin="secret")
    if which == "anchor":
        forged = dataclasses.replace(lucky, anchor=dataclasses.replace(about, key_id=old.seeds.key_id))
    else:
        forged = dataclasses.replace(lucky, seed_origin="secret", key_id=old.seeds.key_id)
    found = old.verify(forged, photograph)
    assert found.verdict == "different"
    assert f"the secret {old.seeds.key_id}, which the certificate names, gives another" in found.details[0]
    with fsfast.SmoothedEncoder("demo") as anybody:
        assert anybody.verify(forged, photograph).verdict == "same"


@pytest.mark.parametrize("place", ["certification", "anchor"])
def test_a_key_without_a_seed_of_a_secret_is_malformed(certificate, place):
    record = json.loads(json.dumps(certificate.to_record()))
    record[place]["seed_origin"] = "os"
    with pytest.raises(fsfast.CertificateError, match="only a seed of a secret has a key_id"):
        parse_certificate(record)


def test_a_key_id_of_another_form_is_malformed(certificate):
    record = json.loads(json.dumps(certificate.to_record()))
    record["certification"]["key_id"] = "last year's"
    with pytest.raises(fsfast.CertificateError, match="malformed"):
        parse_certificate(record)


def test_a_certificate_made_anew_has_the_systems_seed_and_no_key(old, certificate, photograph):
    anew = old.certify_anew(certificate, photograph, progress=False)
    assert (anew.seed_origin, anew.key_id) == ("os", None)
    assert anew.anchor == certificate.anchor
