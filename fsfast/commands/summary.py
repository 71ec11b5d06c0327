"""Say what the certificates of a data set guarantee together: the certified share of images against the radius.

Reads what `fsfast certify -o FILE` wrote. A certificate in a file has no direction, so that classes need --served, what
`fsfast encode` wrote and `fsfast certify --served` certified, and --engine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fsfast.commands.common import MAX_EPSILON, as_text
from fsfast.commands.matching import Line, engine_of, read_lines
from fsfast.commands.parser import Several, number
from fsfast.commands.plotting import check_plot
from fsfast.commands.served import load_served
from fsfast.errors import CertificateError
from fsfast.files import check_target, write_whole
from fsfast.runtime.progress import progress_bar

if TYPE_CHECKING:
    from fsfast.certificates.data_set import Source
    from fsfast.engine.classes import ClassHead


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "certificates", metavar="FILE", help="certificates of one function, one JSON line per image"
    )
    parser.add_argument(
        "--cosine", metavar="C", type=float, default=0.5, help="what is asked for (default 0.5)"
    )
    parser.add_argument(
        "--epsilon",
        metavar="RADIUS,…",
        action=Several,
        item=number,
        help="ℓ2 radii to show, [0,1] pixel units (default: multiples of σ/4, as far as there are certificates)",
    )
    parser.add_argument(
        "--served", metavar="NAME", help="the directions that were certified, for the shares of kept classes"
    )
    parser.add_argument(
        "--engine",
        metavar="ENGINE",
        help="whose classes (default: those of the built-in one that the certificates name)",
    )
    parser.add_argument("--csv", metavar="FILE.csv", help="also write the table to this file")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the shares against the radius")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(args: argparse.Namespace) -> int:
    """Read the certificates one after the other, and show what they say together."""
    from fsfast.certificates.data_set import data_set
    from fsfast.report.data_set import to_csv, to_json, to_svg, to_text, usual_radii

    _check(args)
    lines = read_lines(args.certificates, "summary")
    classes = None if args.served is None else _classes(engine_of(args.engine, lines))
    found = data_set(_sources(args, lines), args.cosine, classes)
    epsilons = args.epsilon or usual_radii(found)
    print(json.dumps(to_json(found, epsilons)) if args.json else to_text(found, epsilons))
    if args.csv is not None:
        write_whole(args.csv, to_csv(found, epsilons).encode())
    if args.plot is not None:
        write_whole(args.plot, to_svg(found).encode())
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 0.0 < args.cosine <= 1.0:
        raise ValueError(f"wanted --cosine in (0, 1], got {args.cosine}")
    for epsilon in args.epsilon or ():
        if not 0.0 <= epsilon <= MAX_EPSILON:
            raise ValueError(f"wanted --epsilon in [0, {MAX_EPSILON:g}], got {epsilon}")
    if args.csv is not None:
        check_target(args.csv)
    if args.plot is not None:
        check_plot(args.plot)


def _classes(engine: str) -> ClassHead:
    from fsfast.engine.classes import load_classes
    from fsfast.engine.engine import load_engine

    classes = load_classes(load_engine(engine))
    if classes is None:
        raise ValueError(f"{engine} has no classes; leave out --served")
    return classes


def _sources(args: argparse.Namespace, lines: list[Line]) -> Iterator[Source]:
    """Yield the certificates, with their directions where classes are asked for.

    Raises:
        CertificateError: something else is in the file, or --served lacks a direction.
    """
    from fsfast.certificates.data_set import Source
    from fsfast.certificates.reading import parse_certificate
    from fsfast.certificates.statement import anchor_hash

    served = None if args.served is None else load_served(args.served)
    with progress_bar(None, len(lines), "summary") as advance:
        for line in lines:
            certificate = parse_certificate(line.record, line.place)
            features = None if served is None else served.get(certificate.grid_sha256)
            if served is not None and (
                features is None or anchor_hash(features.unit) != certificate.anchor.sha256
            ):
                raise CertificateError(
                    f"{as_text(args.served)} has not the direction that {line.place} is about; name what "
                    "`certify --served` certified, or leave out --served"
                )
            yield Source(line.place, certificate, features)
            advance(1)
