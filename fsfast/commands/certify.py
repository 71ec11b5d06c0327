"""Certify the direction of images' smoothed features.

Prints a table. With -o, one certificate per line (JSON) is appended to a file as it is finished; run the same
command again after an interruption and the images that are done are left out. With --served, the directions
are those that `fsfast encode` handed out; images are found in its file by their pixels on the grid.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
from fsfast.commands.journal import append, locked, resume
from fsfast.commands.parser import Several, number
from fsfast.errors import BackendUnavailable
from fsfast.files import check_target, write_whole
from fsfast.installation import pip_install_extras
from fsfast.report.text import RANDOM_WEIGHTS, show_bound, show_radius, table

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.encoder import SmoothedEncoder
    from fsfast.engine.classes import ClassHead
    from fsfast.images.grid import GridImage
    from fsfast.runtime.features import SmoothedFeatures


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    engine_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files of any size")
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
        "--served", metavar="FILE", help="certify the directions that `fsfast encode` wrote to this file"
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
        certificate: None where it failed, and was named on stderr.
        new: whether it was made just now; else an earlier run of the same command made it.
    """

    certificate: Certificate | None
    new: bool = False


def run(args: argparse.Namespace) -> int:
    """Certify image after image; one that fails does not stop the rest."""
    _check(args)
    served = load_served(args.served) if args.served is not None else None
    with open_encoder(args) as encoder, locked(args.output):
        outcomes = list(_outcomes(args, encoder, served))
        # Those of an earlier run come first.
        certificates = [o.certificate for o in sorted(outcomes, key=lambda o: o.new) if o.certificate]
        if certificates and not args.json:
            radii = args.epsilon or shown_radii(encoder.sigma)
            _print_table(certificates, radii, encoder.manifest.random_weights, encoder.classes)
        if args.plot is not None:
            _plot(args.plot, next((o.certificate for o in outcomes if o.new), None))
    return 0 if all(o.certificate for o in outcomes) else 1


def _outcomes(
    args: argparse.Namespace, encoder: SmoothedEncoder, served: Mapping[str, SmoothedFeatures] | None
) -> Iterator[Outcome]:
    """Yield what becomes of every image; certificates are written as they are made."""
    done = resume(args.output, _settings(args, encoder, served)) if args.output is not None else {}
    for image in readable(args.images, encoder, "certify"):
        if image is None:
            yield Outcome(None)
        elif served is not None and image.grid_sha256 not in served:
            complain("certify", str(image.name), f"{as_text(args.served)} has no features of it")
            yield Outcome(None)
        elif image.grid_sha256 in done:
            complain("certify", str(image.name), "done before, left out")
            yield Outcome(done[image.grid_sha256])
        else:
            certificate = _certify(encoder, image, args, served)
            _emit(certificate, args)
            if args.output is not None:
                # The same picture may be named twice.
                done[image.grid_sha256] = certificate
            yield Outcome(certificate, new=True)


def load_served(path: str) -> dict[str, SmoothedFeatures]:
    """Return the features of each image in a file that `encode` wrote, by the hash of its pixels on the grid.

    Raises:
        FsfastError: the file is missing or holds something else.
        ValueError: one image has two directions there, so that it is not clear which to certify.
    """
    from fsfast.runtime.features import load_features

    features = load_features(path)
    found: dict[str, SmoothedFeatures] = {}
    for i, key in enumerate(features.grid_sha256):
        if key in found and (found[key].unit != features[i].unit).any():
            raise ValueError(f"{path} has two directions of one image (the second is number {i + 1})")
        found[key] = features[i]
    return found


def _check(args: argparse.Namespace) -> None:
    from fsfast.certificates.certification import plan_of

    if not 0.0 < args.alpha < 1.0:
        raise ValueError(f"wanted --alpha in (0, 1), got {args.alpha}")
    for epsilon in args.epsilon or ():
        if not 0.0 <= epsilon <= MAX_EPSILON:
            raise ValueError(f"wanted --epsilon in [0, {MAX_EPSILON:g}], got {epsilon}")
    if args.plot is not None:
        check_target(args.plot)
        if not args.plot.endswith(".svg"):
            raise ValueError(f"wanted --plot FILE.svg, got {args.plot}")
        if find_spec("matplotlib") is None:
            raise BackendUnavailable(f"--plot needs matplotlib; {pip_install_extras('plot')}")
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
    )
    assert not isinstance(certificate, list)
    return certificate


def _emit(certificate: Certificate, args: argparse.Namespace) -> None:
    """Append the certificate to the output file, and print it with --json."""
    line = json.dumps(certificate.to_record(args.epsilon), ensure_ascii=False)
    if args.output is not None:
        append(args.output, line)
    if args.json:
        print(line, flush=True)


def _print_table(
    certificates: list[Certificate],
    radii: list[float],
    random_weights: bool,
    classes: ClassHead | None,
) -> None:
    first = certificates[0]
    columns = _columns(radii, classes, tokens=first.token_scores is not None)
    rows = [[show(certificate) for show in columns.values()] for certificate in certificates]
    print(table(rows, list(columns)))
    print(
        f"\nWith probability ≥ {1 - first.alpha:g} per image, for every image x' on the "
        f"{first.grid[0]}×{first.grid[1]} grid within ℓ2 distance ε of x ([0,1] units):\n"
        "the smoothed feature of x' has at least this cosine to the certified direction. "
        f"σ = {first.sigma:g}."
    )
    if first.token_scores is not None:
        print("Each token's cosine is bounded on its own, too: the smallest and the largest bound are shown.")
    if classes is not None:
        print("Within the last column's radius that feature also keeps its class.")
    for c in certificates:
        if c.stopping is not None and c.stopping.reason != "reached":
            what = f"cosine {c.stopping.cosine:g} at ε = {c.stopping.epsilon:g} not certified"
            print(f"{Path(c.image_name or 'image').name}: {what} with n = {c.n} ({c.stopping.reason})")
    if random_weights:
        print(RANDOM_WEIGHTS)


def _columns(
    radii: list[float], classes: ClassHead | None, *, tokens: bool
) -> dict[str, Callable[[Certificate], str]]:
    """Return the columns of the table: header → cell of a certificate."""
    columns: dict[str, Callable[[Certificate], str]] = {
        "image": lambda c: Path(c.image_name or "image").name,
        "n": lambda c: str(c.n),
    }
    for radius in radii:
        columns[f"cos ≥ at ε={radius:g}"] = lambda c, r=radius: show_bound(c.cosine(r))  # type: ignore[misc]
    columns["radius for cos ≥ 0.5"] = lambda c: show_radius(c.radius(0.5))
    if tokens:
        columns[f"tokens: cos ≥ at ε={radii[0]:g}"] = lambda c: _token_bounds(c, radii[0])
    if classes is not None:
        # A file has no directions to name a class by.
        columns["class"] = lambda c: "" if c.direction is None else c.predict(classes).name
        columns["its radius"] = lambda c: (
            "" if c.direction is None else show_radius(c.predict(classes).radius)
        )
    return columns


def _token_bounds(certificate: Certificate, radius: float) -> str:
    """Return the smallest and the largest bound of a token."""
    bounds = np.nan_to_num(certificate.token_cosine(radius))
    return " … ".join(show_bound(float(bound) or None) for bound in (bounds.min(), bounds.max()))
