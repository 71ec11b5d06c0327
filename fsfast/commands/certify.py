"""Certify the direction of images' smoothed features.

Prints a table. With -o, one certificate per line (JSON) is appended to a file as it is finished; run the same
command again after an interruption and the images that are done are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.commands.common import (
    RANDOM_WEIGHTS,
    engine_arguments,
    open_encoder,
    parse_seed,
    readable,
    show_bound,
    table,
)
from fsfast.errors import CertificateError

if TYPE_CHECKING:
    from fsfast.encoder import SmoothedEncoder
    from fsfast.images import GridImage
    from fsfast.record import Certificate


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files of any size")
    parser.add_argument("-o", "--output", metavar="FILE", help="append certificates here, one JSON line each")
    parser.add_argument("--n", type=int, default=1000, help="certification samples per image (default 1000)")
    parser.add_argument(
        "--alpha", type=float, default=1e-3, help="probability of a wrong certificate (default 0.001)"
    )
    parser.add_argument(
        "--anchor", choices=("served", "clean"), default="served", help="the direction to certify"
    )
    parser.add_argument(
        "--method", choices=("mixture", "product", "hoeffding"), default="mixture", help="confidence bound"
    )
    parser.add_argument("--n0", type=int, help="serving samples (default: the engine's)")
    parser.add_argument("--seed", type=parse_seed, help="use this seed for every image, to replay a result")
    parser.add_argument(
        "--epsilon", type=float, nargs="+", help="ℓ2 radii to show ([0,1] pixel units; default σ/2, σ, 2σ)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON line per image instead of the table"
    )


def run(args: argparse.Namespace) -> int:
    """Certify image after image; one that fails does not stop the rest."""
    if not 0.0 < args.alpha < 1.0:
        raise ValueError(f"wanted --alpha in (0, 1), got {args.alpha}")
    for epsilon in args.epsilon or ():
        if not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"wanted --epsilon ≥ 0, got {epsilon}")
    with open_encoder(args) as encoder:
        done = _read_done(args.output, encoder.function_id, args) if args.output else set()
        radii = args.epsilon or [factor * encoder.sigma for factor in (0.5, 1.0, 2.0)]
        certificates, failed = [], 0
        for image in readable(args.images, encoder, "certify"):
            if image is None:
                failed += 1
            elif image.grid_sha256 in done:
                print(f"fsfast certify: {image.name}: done before, left out", file=sys.stderr)
            else:
                certificate = _certify(encoder, image, args)
                _emit(certificate, args)
                certificates.append(certificate)
        if certificates and not args.json:
            _print_table(certificates, radii, encoder.manifest.random_weights)
    return 1 if failed else 0


def _certify(encoder: SmoothedEncoder, image: GridImage, args: argparse.Namespace) -> Certificate:
    seeds = None if args.seed is None else [args.seed]
    certificate = encoder.certify(
        image, args.n, args.alpha, anchor=args.anchor, method=args.method, n0=args.n0, seeds=seeds
    )
    assert not isinstance(certificate, list)
    return certificate


def _emit(certificate: Certificate, args: argparse.Namespace) -> None:
    """Append the certificate to the output file, or print it; a line is written whole."""
    line = json.dumps(certificate.to_record(), ensure_ascii=False)
    if args.output:
        with open(args.output, "a", encoding="utf-8") as handle:
            handle.write(line + "\n")
            handle.flush()
            os.fsync(handle.fileno())
    if args.json:
        print(line, flush=True)


def _read_done(path: str, function_id: str, args: argparse.Namespace) -> set[str]:
    """Return the grid hashes that the output file has already; drop a line cut off by an interruption.

    Raises:
        CertificateError: the file holds something else, or certificates made with other settings.
    """
    if not Path(path).exists():
        return set()
    text = Path(path).read_bytes()
    whole, _, rest = text.rpartition(b"\n")
    if rest:
        from fsfast.files import write_whole

        write_whole(path, whole + b"\n" if whole else b"")
    done = set()
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            record = json.loads(line)
            settings = (record["function_id"], record["certification"]["n"], record["certification"]["alpha"])
            done.add(record["image"]["grid_sha256"])
        except (ValueError, KeyError, TypeError):
            raise CertificateError(
                f"{path}, line {number}, is not a certificate; choose another file for --output"
            ) from None
        if settings != (function_id, args.n, args.alpha):
            raise CertificateError(
                f"{path} holds certificates of another engine, profile, n or α; choose another file for --output"
            )
    return done


def _print_table(certificates: list[Certificate], radii: list[float], random_weights: bool) -> None:
    first = certificates[0]
    rows = [
        [Path(c.image_name or "image").name, f"{c.score_lower_bound:.4f}"]
        + [show_bound(c.cosine(r)) for r in radii]
        + [f"{int(c.radius(0.5) * 1000) / 1000:.3f}"]
        for c in certificates
    ]
    header = ["image", "score ≥", *(f"cos ≥ at ε={r:g}" for r in radii), "radius for cos ≥ 0.5"]
    print(table(rows, header))
    print(
        f"\nWith probability ≥ {1 - first.alpha:g} per image, for every image x' on the "
        f"{first.grid[0]}×{first.grid[1]} grid within ℓ2 distance ε of x ([0,1] units):\n"
        "the smoothed feature of x' has at least this cosine to the certified direction. "
        f"n = {first.n}, σ = {first.sigma:g}."
    )
    if random_weights:
        print(RANDOM_WEIGHTS)
