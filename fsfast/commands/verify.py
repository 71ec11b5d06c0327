"""Replay a certificate: does it come from this engine, this image and the stated noise?

Answers "same", "different" (and what), or "cannot be checked bit for bit here" (and the deviation). A replay
proves the computation, not that the seed was drawn fairly: certify anew for that. Exit code 0 means "same", 1 any
other answer. The engine runs as the
certificate says (precision, micro-batch, stages) unless flags say otherwise. Several certificates about the
image in one file are replayed one after the other, one verdict each.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsfast.commands.common import complain, engine_arguments, open_encoder
from fsfast.commands.journal import read_records
from fsfast.errors import CertificateError
from fsfast.strict_json import parse_json

if TYPE_CHECKING:
    from fsfast.record import Certificate, Verification


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "certificate", metavar="CERT", help="certificate file, or a file of one JSON line per image"
    )
    parser.add_argument("image", metavar="IMAGE", help="the image that it speaks about")
    parser.add_argument("--engine", default="demo", help='the engine that made it (default: "demo")')
    engine_arguments(parser, positional=False)
    parser.add_argument("--json", action="store_true", help="print the finding as JSON")


def run(args: argparse.Namespace) -> int:
    """Replay and compare; exit code 0 only if every certificate about the image is the "same"."""
    from fsfast.engine import load_engine
    from fsfast.images import to_grid_image

    engine = load_engine(args.engine)
    image = to_grid_image(args.image, engine.manifest.grid)
    certificates = _read(args.certificate, image.grid_sha256)
    for certificate in certificates:
        if certificate.engine_digest != engine.digest:
            raise CertificateError(
                f"{args.certificate} belongs to the engine {certificate.engine!r} with digest "
                f"{certificate.engine_digest[:16]}…, {args.engine} has {engine.digest[:16]}…; name it with --engine"
            )
    results = []
    for profile, group in groupby(certificates, key=lambda certificate: certificate.profile):
        with open_encoder(args, profile) as encoder:
            for certificate in group:
                results.append(encoder.verify(certificate, image))
                _report(results[-1], args.json)
    return 0 if all(results) else 1


def _report(found: Verification, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"verdict": found.verdict, "details": found.details, "deviation": found.deviation}))
        return
    print(found.verdict + (":" if found.details else ""))
    for detail in found.details:
        print(f"  {detail}")
    if found.deviation is not None and not found:
        print(f"  largest deviation of a score: {found.deviation:.1e}")


def _read(path: str, grid_sha256: str) -> list[Certificate]:
    """Return the certificate in a file of one, or those about this image in a file of lines.

    Raises:
        CertificateError: something else is in the file, or nothing about this image.
    """
    from fsfast.record import parse_certificate

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"wanted a file of certificates, {path}: {error.strerror}") from None
    try:
        single = parse_json(content)
    except ValueError:
        records, tail = read_records(content, path)
    else:
        return [parse_certificate(single, path)]
    if tail:
        complain("verify", path, "the last line is cut off and left out")
    found = [
        parse_certificate(record, f"{path}, line {number}")
        for number, record in enumerate(records, 1)
        if _image_of(record) == grid_sha256
    ]
    if not found:
        raise CertificateError(f"{path} has no certificate about this image")
    return found


def _image_of(record: Any) -> str | None:
    image = record.get("image") if isinstance(record, dict) else None
    return image.get("grid_sha256") if isinstance(image, dict) else None
