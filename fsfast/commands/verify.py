"""Replay a certificate: does it come from this engine, this image and the stated noise?

Answers "same", "different" (and what), or "cannot be checked bit for bit here" (and the deviation). A replay
proves the computation, not that the seed was drawn fairly: --fresh certifies the same direction anew. Exit
code 0 means "same" (or not refuted), 1 any other answer. The engine runs as the certificate says (precision,
micro-batch, threads inside a run, stages) unless flags say otherwise. Several certificates about the
image in one file are replayed one after the other, one verdict each.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fsfast.commands.common import complain, engine_arguments, not_an_image, open_encoder, shown_radii
from fsfast.errors import CertificateAltered, CertificateError
from fsfast.report.text import show_bound, table

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.replay import Verification
    from fsfast.encoder import SmoothedEncoder
    from fsfast.images.grid import GridImage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "certificate",
        metavar="CERT",
        type=partial(not_an_image, wanted=f"the certificate comes first: {parser.prog} CERT"),
        help="certificate file, or a file of one JSON line per image",
    )
    parser.add_argument("image", metavar="IMAGE", help="the image that it speaks about")
    parser.add_argument("--engine", default="demo", help='the engine that made it (default: "demo")')
    engine_arguments(parser, positional=False)
    parser.add_argument(
        "--fresh", action="store_true", help="certify anew with new noise, and say whether that refutes it"
    )
    parser.add_argument("--json", action="store_true", help="print the finding as JSON")


def run(args: argparse.Namespace) -> int:
    """Replay and compare; exit code 0 only if every certificate about the image is the "same"."""
    from fsfast.certificates.replay import Verification
    from fsfast.engine.engine import load_engine
    from fsfast.images.grid import to_grid_image

    engine = load_engine(args.engine)
    image = to_grid_image(args.image, engine.manifest.grid)
    certificates = []
    results: list[bool] = []
    for read in _read(args.certificate, image.grid_sha256):
        if isinstance(read, CertificateAltered):
            results.append(False)
            _report(Verification("different", (str(read),)), args.json)
            continue
        if read.engine_digest != engine.digest:
            raise CertificateError(
                f"{args.certificate} belongs to the engine {read.engine!r} with digest "
                f"{read.engine_digest[:16]}…, {args.engine} has {engine.digest[:16]}…; name it with --engine"
            )
        certificates.append(read)
    for profile, group in groupby(certificates, key=lambda certificate: certificate.profile):
        with open_encoder(args, profile) as encoder:
            for certificate in group:
                if args.fresh:
                    results.append(_fresh(encoder, certificate, image, args.json))
                else:
                    found = encoder.verify(certificate, image)
                    _report(found, args.json)
                    results.append(bool(found))
    return 0 if all(results) else 1


def _fresh(encoder: SmoothedEncoder, certificate: Certificate, image: GridImage, as_json: bool) -> bool:
    """Certify anew and compare; returns whether nothing is refuted."""
    from fsfast.certificates.replay import contradictions

    fresh = encoder.certify_anew(certificate, image)
    refuted = contradictions(certificate, fresh)
    radii = shown_radii(certificate.sigma)
    pairs = [(radius, certificate.cosine(radius), fresh.cosine(radius)) for radius in radii]
    if as_json:
        bounds = [{"epsilon": r, "stated": a, "fresh": b} for r, a, b in pairs]
        print(json.dumps({"refuted": refuted, "n": fresh.n, "bounds": bounds}))
        return not refuted
    rows = [[f"{radius:g}", show_bound(stated), show_bound(again)] for radius, stated, again in pairs]
    print(table(rows, ("ℓ2 radius ε", "stated cosine ≥", "certified anew ≥")))
    print("refuted by new noise:" if refuted else f"not refuted by new noise (n = {fresh.n})")
    for detail in refuted:
        print(f"  {detail}")
    return not refuted


def _report(found: Verification, as_json: bool) -> None:
    if as_json:
        finding = {"verdict": found.verdict, "details": found.details, "deviation": found.deviation}
        print(json.dumps({**finding, "notes": found.notes}))
        return
    print(found.verdict + (":" if found.details else ""))
    for detail in found.details:
        print(f"  {detail}")
    for note in found.notes:
        print(f"  note: {note}")
    if found.deviation is not None and not found:
        print(f"  largest deviation of a score: {found.deviation:.1e}")


def _read(path: str, grid_sha256: str) -> list[Certificate | CertificateAltered]:
    """Return the certificate in a file of one, or those about this image in a file of lines; or how one was altered.

    Raises:
        CertificateError: something else is in the file, or nothing about this image.
    """
    from fsfast.certificates.lines import read_file

    records, tail = read_file(path)
    if tail:
        complain("verify", path, "the last line is cut off and left out")
    if len(records) == 1 and not tail:
        return [_parse(records[0], path)]
    found = [
        _parse(record, f"{path}, line {number}")
        for number, record in enumerate(records, 1)
        if _image_of(record) == grid_sha256
    ]
    if not found:
        raise CertificateError(f"{path} has no certificate about this image")
    return found


def _parse(record: Any, name: str) -> Certificate | CertificateAltered:
    from fsfast.certificates.reading import parse_certificate

    try:
        return parse_certificate(record, name)
    except CertificateAltered as error:
        return error


def _image_of(record: Any) -> str | None:
    image = record.get("image") if isinstance(record, dict) else None
    return image.get("grid_sha256") if isinstance(image, dict) else None
