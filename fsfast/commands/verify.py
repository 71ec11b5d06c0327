"""Replay a certificate: does it come from this engine, this image and the stated noise?

Answers "same", "different" (and what), or "cannot be checked bit for bit here" (and the deviation). A replay
proves the computation, not that the seed was drawn fairly: --fresh certifies the same direction anew. Exit
code 0 means "same" (or not refuted), 1 any other answer. The engine runs as the certificate says (precision,
micro-batch, threads inside a run, stages) unless flags say otherwise. Several certificates about the
image in one file are replayed one after the other, one verdict each. So are those about any number of images; then
images without a certificate count as not the same, and certificates without an image are named.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fsfast.certificates.wording import show_bound, show_epsilon
from fsfast.commands.common import (
    as_text,
    complain,
    engine_arguments,
    not_an_image,
    open_encoder,
    shown_radii,
)
from fsfast.commands.inputs import image_arguments, image_paths
from fsfast.commands.matching import Line, Matches, engine_of, image_of, match_many, match_one, read_lines
from fsfast.errors import CertificateAltered, CertificateError, ImageError
from fsfast.report.text import table
from fsfast.runtime.progress import beside_bars, progress_bar

if TYPE_CHECKING:
    from fsfast.certificates.certificate import Certificate
    from fsfast.certificates.replay import Verification
    from fsfast.encoder import SmoothedEncoder
    from fsfast.engine.engine import Engine
    from fsfast.images.grid import GridImage


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "certificate",
        metavar="CERT",
        type=partial(not_an_image, wanted=f"the certificate comes first: {parser.prog} CERT"),
        help="certificate file, or a file of one JSON line per image",
    )
    image_arguments(parser)
    parser.add_argument(
        "--engine", help="the engine that made it (default: the built-in one that the certificate names)"
    )
    engine_arguments(parser, positional=False)
    parser.add_argument(
        "--fresh", action="store_true", help="certify anew with new noise, and say whether that refutes it"
    )
    parser.add_argument("--json", action="store_true", help="print the finding as JSON")


@dataclass(frozen=True)
class Finding:
    """What was found about one certificate.

    Attributes:
        verdict: in few words.
        good: whether it is "same", or not refuted.
        text: the verdict and what explains it, for a terminal.
        record: the same for --json.
    """

    verdict: str
    good: bool
    text: str
    record: dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Replay and compare; exit code 0 only if every certificate about the images is the "same"."""
    from fsfast.engine.engine import load_engine

    paths, lines = image_paths(args), read_lines(args.certificate, "verify")
    args.engine = engine_of(args.engine, lines)
    engine = load_engine(args.engine)
    grid = engine.manifest.grid
    if len(paths) == 1:
        matches = match_one(lines, paths[0], grid)
        findings = list(_findings(args, engine, matches, _show_alone))
    else:
        matches = match_many(lines, paths, grid, args.on_error)
        findings = list(_findings(args, engine, matches, _show_named))
        _show_unmatched(args, matches)
        if not args.json:
            print(_summary(findings, matches))
    failed = matches.failed or matches.images or len(findings) < len(matches.pairs)
    return 1 if failed or not all(finding.good for finding in findings) else 0


_Show = Callable[[argparse.Namespace, Line, str, Finding], None]


def _findings(args: argparse.Namespace, engine: Engine, matches: Matches, show: _Show) -> Iterator[Finding]:
    """Yield what is found, one execution profile after the other; a certificate that cannot be checked is named.

    Raises:
        CertificateError: the only image's certificate cannot be checked.
    """
    order = {profile: i for i, profile in enumerate(dict.fromkeys(line.profile for line, _ in matches.pairs))}
    pairs = sorted(matches.pairs, key=lambda pair: order[pair[0].profile])
    with progress_bar(None, len(pairs), "verify") as advance:
        for _, group in groupby(pairs, key=lambda pair: pair[0].profile):
            with ExitStack() as stack:
                check = _Check(args, engine, stack)
                for line, path in group:
                    try:
                        finding = check(line, path)
                    except (CertificateError, ImageError) as error:
                        if show is _show_alone:
                            raise
                        complain("verify", path, error)
                    else:
                        with beside_bars():
                            show(args, line, path, finding)
                        yield finding
                    advance(1)


class _Check:
    """Checks certificates of one execution profile; the engine is opened for the first that needs it."""

    def __init__(self, args: argparse.Namespace, engine: Engine, stack: ExitStack) -> None:
        self._args, self._engine, self._stack = args, engine, stack
        self._encoder: SmoothedEncoder | None = None

    def __call__(self, line: Line, path: str) -> Finding:
        from fsfast.certificates.reading import parse_certificate
        from fsfast.certificates.replay import Verification

        try:
            certificate = parse_certificate(line.record, line.place)
        except CertificateAltered as error:
            return _replayed(Verification("different", (str(error),)))
        digest = self._engine.digest
        if certificate.engine_digest != digest:
            raise CertificateError(
                f"{line.place} belongs to the engine {certificate.engine!r} with digest "
                f"{certificate.engine_digest[:16]}…, {self._args.engine} has {digest[:16]}…; name it with --engine"
            )
        image = image_of(line, path, self._engine.manifest.grid)
        if self._encoder is None:
            self._encoder = self._stack.enter_context(open_encoder(self._args, certificate.profile))
        if self._args.fresh:
            return _fresh(self._encoder, certificate, image)
        return _replayed(self._encoder.verify(certificate, image))


def _fresh(encoder: SmoothedEncoder, certificate: Certificate, image: GridImage) -> Finding:
    """Certify anew and compare; good where nothing is refuted."""
    from fsfast.certificates.replay import contradictions

    fresh = encoder.certify_anew(certificate, image, progress=False)
    refuted = contradictions(certificate, fresh)
    radii = shown_radii(certificate.sigma)
    pairs = [(radius, certificate.cosine(radius), fresh.cosine(radius)) for radius in radii]
    bounds = [{"epsilon": r, "stated": a, "fresh": b} for r, a, b in pairs]
    rows = [[show_epsilon(radius), show_bound(stated), show_bound(again)] for radius, stated, again in pairs]
    verdict = "refuted by new noise" if refuted else "not refuted by new noise"
    said = f"{verdict}:" if refuted else f"{verdict} (n = {fresh.n})"
    text = [said, *_indented(refuted), table(rows, ("ℓ2 radius ε", "stated cosine ≥", "certified anew ≥"))]
    record = {"refuted": refuted, "n": fresh.n, "bounds": bounds}
    return Finding(verdict, not refuted, "\n".join(text), record)


def _replayed(found: Verification) -> Finding:
    text = [found.verdict + (":" if found.details else ""), *_indented(found.details)]
    text += _indented([f"note: {note}" for note in found.notes])
    if found.deviation is not None and not found:
        text += _indented([f"largest deviation of a score: {found.deviation:.1e}"])
    record = {"verdict": found.verdict, "details": found.details, "deviation": found.deviation}
    return Finding(found.verdict, bool(found), "\n".join(text), {**record, "notes": found.notes})


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _show_alone(args: argparse.Namespace, line: Line, path: str, finding: Finding) -> None:
    print(json.dumps(finding.record) if args.json else finding.text, flush=True)


def _show_named(args: argparse.Namespace, line: Line, path: str, finding: Finding) -> None:
    name = as_text(path)
    if args.json:
        print(json.dumps({"image": name, "certificate": line.place, **finding.record}), flush=True)
    else:
        print(f"{name}: {finding.text}", flush=True)


def _show_unmatched(args: argparse.Namespace, matches: Matches) -> None:
    """Name images without a certificate, and certificates without an image."""
    named: list[tuple[str | None, str | None, str]] = [
        (as_text(path), None, "no certificate") for path in matches.images
    ]
    named += [(line.image.get("name"), line.place, "no image") for line in matches.lines]
    for name, place, verdict in named:
        if args.json:
            print(json.dumps({"image": name, "certificate": place, "verdict": verdict}))
        else:
            print(f"{name}: {verdict}" if place is None else f"{place} ({name}): {verdict}")


def _summary(findings: list[Finding], matches: Matches) -> str:
    counts = Counter(finding.verdict for finding in findings)
    counts["not checked"] = matches.failed + len(matches.pairs) - len(findings)
    counts["no certificate"] = len(matches.images)
    counts["no image"] = len(matches.lines)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
