"""Replay a certificate: does it come from this engine, this image and the stated noise?

Answers "same", "different" (and what), or "cannot be checked bit for bit here" (and the deviation). A replay
proves the computation, not that the seed was drawn fairly: certify anew for that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fsfast.commands.common import engine_arguments, open_encoder
from fsfast.errors import CertificateError


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
    """Replay and compare; exit code 0 only for "same"."""
    from fsfast.images import to_grid_image

    with open_encoder(args) as encoder:
        image = to_grid_image(args.image, encoder.manifest.grid)
        certificate = _find(Path(args.certificate), image.grid_sha256)
        found = encoder.verify(certificate, image)
    if args.json:
        print(json.dumps({"verdict": found.verdict, "details": found.details, "deviation": found.deviation}))
    else:
        print(found.verdict + (":" if found.details else ""))
        for detail in found.details:
            print(f"  {detail}")
        if found.deviation:
            print(f"  largest deviation of a score: {found.deviation:.2e}")
    return 0 if found else 1


def _find(path: Path, grid_sha256: str):  # type: ignore[no-untyped-def]
    """Return the certificate in a file of one, or the one about this image in a file of lines."""
    from fsfast.record import load_certificate, parse_certificate

    if path.suffix != ".jsonl":
        return load_certificate(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CertificateError(f"wanted a file of certificates: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            raise CertificateError(f"{path}, line {number}, is not a certificate") from None
        certificate = parse_certificate(record, f"{path}, line {number}")
        if certificate.grid_sha256 == grid_sha256:
            return certificate
    raise CertificateError(f"{path} has no certificate about this image")
