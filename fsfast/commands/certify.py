"""Certify the direction of images' smoothed features.

Prints a table, row by row. With -o, one certificate per line (JSON) is appended to a file as it is finished; run the
same command again after an interruption and the images that are done are left out. With --served, the directions
are those that `fsfast encode` handed out; images are found there by their pixels on the grid.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.commands.certificate_table import CertificateTable
from fsfast.commands.common import (
    MAX_EPSILON,
    as_text,
    complain,
    engine_arguments,
    open_encoder,
    parse_seed,
    readable,
    shown_radii,
)
from fsfast.commands.fitted import Fitted
from fsfast.commands.inputs import image_arguments, image_paths
from fsfast.commands.journal import Journal, locked
from fsfast.commands.parser import Several, number
from fsfast.commands.plotting import check_plot
from fsfast.commands.served import load_served
from fsfast.errors import CertificateError
from fsfast.files import check_target, write_whole
from fsfast.runtime.progress import beside_bars, progress_bar

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.encoder import SmoothedEncoder
    from fsfast.images.grid import GridImage
    from fsfast.runtime.features import SmoothedFeatures


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    image_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="append certificates here, one JSON line each")
    parser.add_argument("-n", "--n", type=int, help="certification samples per image (default 1000)")
    parser.add_argument(
        "--until",
        type=float,
        metavar="EPSILON",
        help="stop sampling an image as soon as --cosine is certified at this radius, or out of reach",
    )
    parser.add_argument("--cosine", type=float, help="with --until: what is asked for (default 0.5)")
    parser.add_argument("--n-max", type=int, help="with --until: samples per image at most (default 10000)")
    parser.add_argument(
        "--per-token",
        action="store_true",
        help="also certify every token, with half of alpha for all of them",
    )
    parser.add_argument(
        "--alpha", type=float, default=1e-3, help="probability of a wrong certificate (default 0.001)"
    )
    parser.add_argument(
        "--anchor",
        choices=("served", "clean"),
        default="served",
        help="certify the direction that was served (default) or the clean one",
    )
    parser.add_argument(
        "--method",
        choices=("mixture", "product", "hoeffding"),
        default="mixture",
        help="confidence bound (default mixture)",
    )
    parser.add_argument("--n0", type=int, help="serving samples (default: the engine's)")
    parser.add_argument(
        "--served",
        metavar="NAME",
        help="certify the directions that `fsfast encode` wrote to this file or folder",
    )
    parser.add_argument("--seed", type=parse_seed, help="use this seed for every image, to replay a result")
    parser.add_argument(
        "--epsilon",
        metavar="RADIUS,…",
        action=Several,
        item=number,
        help="ℓ2 radii to show and to state in the file, [0,1] pixel units (default: shows σ/2, σ, 2σ, states five)",
    )
    parser.add_argument(
        "--plot", metavar="FILE.svg", help="draw the curves of all methods and the scores of the first image"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON line per image instead of the table"
    )


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        name: of its file, without the folder.
        certificate: None where it failed, and was named on stderr.
        new: whether it was made just now; else an earlier run of the same command made it.
    """

    name: str
    certificate: Certificate | None
    new: bool = False


def run(args: argparse.Namespace) -> int:
    """Certify image after image; one that fails does not stop the rest unless that is asked for."""
    _check(args)
    paths = image_paths(args)
    served = load_served(args.served) if args.served is not None else None
    failed, before, drawn, fitted = False, 0, None, Fitted()
    with (
        open_encoder(args) as encoder,
        locked(args.output, "certify"),
        progress_bar(None, len(paths), "certify") as advance,
    ):
        table = None if args.json else _table(args, paths, encoder)
        for outcome in _outcomes(args, paths, encoder, served, fitted, advance):
            if outcome.certificate is None:
                failed = True
            elif table is not None:
                table.add(outcome.name, outcome.certificate)
            before += outcome.certificate is not None and not outcome.new
            if outcome.new and drawn is None:
                drawn = outcome.certificate
    if before:
        complain(
            "certify", as_text(args.output), f"{before} of the images were done before, and are left out"
        )
    if table is not None:
        table.explain()
        for line in fitted.lines():
            print(line)
    if args.plot is not None:
        _plot(args.plot, drawn)
    return 1 if failed else 0


def _table(args: argparse.Namespace, paths: Sequence[str], encoder: SmoothedEncoder) -> CertificateTable:
    names = [_name(path) for path in paths]
    radii = args.epsilon or shown_radii(encoder.sigma)
    return CertificateTable(names, radii, encoder.classes, tokens=args.per_token)


def _name(path: str) -> str:
    return Path(as_text(path)).name


def _outcomes(
    args: argparse.Namespace,
    paths: Sequence[str],
    encoder: SmoothedEncoder,
    served: Mapping[str, SmoothedFeatures] | None,
    fitted: Fitted,
    advance: Callable[[float], object],
) -> Iterator[Outcome]:
    """Yield what becomes of every image; certificates are written as they are made."""
    journal = None if args.output is None else Journal(args.output, _settings(args, encoder, served))
    images = fitted.watch(readable(paths, encoder.grid, "certify", args.on_error))
    for path, image in zip(paths, images, strict=False):
        name = _name(path)
        if image is None:
            yield Outcome(name, None)
        elif (found := _found_before(args, encoder, journal, image)) is not None:
            yield Outcome(name, found)
        elif served is not None and image.grid_sha256 not in served:
            complain("certify", path, f"{as_text(args.served)} has no features of it")
            yield Outcome(name, None)
            if args.on_error == "stop":
                return
        else:
            certificate = _certify(encoder, image, args, served, advance)
            _emit(certificate, args, journal)
            yield Outcome(name, certificate, new=True)
            continue
        advance(1)


def _found_before(
    args: argparse.Namespace, encoder: SmoothedEncoder, journal: Journal | None, image: GridImage
) -> Certificate | None:
    """Return the certificate that an earlier run made, as complete as the table needs it."""
    if journal is None or image.grid_sha256 not in journal:
        return None
    certificate = journal[image.grid_sha256]
    if args.json or encoder.classes is None:
        return certificate
    try:
        return encoder.restore_direction(certificate, image)
    except CertificateError:
        # Its seed may be one that nobody can draw from again; the table says so.
        return certificate


def _check(args: argparse.Namespace) -> None:
    from fsfast.certificates.certification import plan_of

    if not 0.0 < args.alpha < 1.0:
        raise ValueError(f"wanted --alpha in (0, 1), got {args.alpha}")
    for epsilon in args.epsilon or ():
        if not 0.0 <= epsilon <= MAX_EPSILON:
            raise ValueError(f"wanted --epsilon in [0, {MAX_EPSILON:g}], got {epsilon}")
    if args.plot is not None:
        check_plot(args.plot)
    if args.until is None and (args.cosine is not None or args.n_max is not None):
        raise ValueError("--cosine and --n-max belong to --until")
    if args.until is not None and (args.n is not None or args.per_token):
        raise ValueError("--until takes --n-max instead of --n, and no --per-token")
    if args.served is not None and (args.anchor == "clean" or args.n0 is not None):
        raise ValueError("--served gives the direction and its n0; leave out --anchor clean and --n0")
    # What else contradicts itself, before the networks are loaded.
    plan_of(args.n, args.alpha, args.method, args.until, args.cosine, args.n_max, per_token=args.per_token)
    if args.output is not None:
        check_target(args.output, append=True)


def _settings(
    args: argparse.Namespace, encoder: SmoothedEncoder, served: Mapping[str, SmoothedFeatures] | None
) -> Callable[[Certificate], dict[str, tuple[object, object]]]:
    """Return a function that gives the settings of a certificate: name → (there, asked for now)."""
    from fsfast.certificates.certification import plan_behind, plan_of
    from fsfast.certificates.statement import anchor_hash

    asked = plan_of(
        args.n, args.alpha, args.method, args.until, args.cosine, args.n_max, per_token=args.per_token
    )

    def compare(there: Certificate) -> dict[str, tuple[object, object]]:
        made = plan_behind(there)
        pairs: dict[str, tuple[object, object]] = {
            "engine or profile": (there.function_id, encoder.function_id),
            "stopping": (made.target, asked.target),
            "n": (made.n, asked.n),
            "tokens": (made.per_token, asked.per_token),
            "alpha": (made.alpha, asked.alpha),
            "method": (made.method, asked.method),
            "anchor": (there.anchor.kind, args.anchor),
        }
        if args.seed is not None:
            pairs["seed"] = (there.seed, args.seed)
        if served is None and args.anchor == "served":
            pairs["n0"] = (there.anchor.n0, encoder.manifest.n0 if args.n0 is None else args.n0)
        if served is not None and there.grid_sha256 in served:
            handed_out = anchor_hash(served[there.grid_sha256].unit)
            pairs["served direction"] = (there.anchor.sha256, handed_out)
        return pairs

    return compare


def _plot(path: str, certificate: Certificate | None) -> None:
    """Draw the curves and the scores of a certificate as SVG; matplotlib is there."""
    if certificate is None:
        complain("certify", path, "nothing new was certified, so nothing is drawn")
        return
    from fsfast.report.plot import certificate_svg

    write_whole(path, certificate_svg(certificate).encode())


def _certify(
    encoder: SmoothedEncoder,
    image: GridImage,
    args: argparse.Namespace,
    served: Mapping[str, SmoothedFeatures] | None,
    advance: Callable[[float], object],
) -> Certificate:
    certificate = encoder.certify(
        image,
        args.n,
        args.alpha,
        epsilon=args.until,
        cosine=args.cosine,
        n_max=args.n_max,
        anchor=args.anchor,
        method=args.method,
        per_token=args.per_token,
        n0=args.n0,
        seeds=None if args.seed is None else [args.seed],
        served=None if served is None else served[image.grid_sha256],
        progress=advance,
    )
    assert not isinstance(certificate, list)
    return certificate


def _emit(certificate: Certificate, args: argparse.Namespace, journal: Journal | None) -> None:
    """Append the certificate to the output file, and print it with --json."""
    line = json.dumps(certificate.to_record(args.epsilon), ensure_ascii=False)
    if journal is not None:
        journal.append(certificate, line)
    if args.json:
        with beside_bars():
            print(line, flush=True)
