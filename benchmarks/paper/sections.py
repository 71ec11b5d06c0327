"""The page's tables: the paper's numbers, the measured ones, and the difference, beside charts of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.paper import charts, quoted
from benchmarks.paper.attacks import RADIUS
from benchmarks.paper.comparison import Compared, slope
from fsfast.certificates.wording import round_down, show_alpha
from fsfast.report.markup import escape, pair, section, table

_NETWORKS = {
    "encoder": "encoder alone",
    "encoder+mapper": "encoder, M",
    "purifier+encoder": "P, encoder",
    "purifier+encoder+mapper": "P, encoder, M",
}
# Of Table 5, as the paper calls them.
_ADDED = {"encoder": "none", "encoder+mapper": "M", "purifier+encoder+mapper": "P, M"}
_BOUNDS = ("paper", "plug-in", "Δ", "certified")


def seconds(cells: Sequence[Compared], settings: Mapping[str, Any]) -> str:
    """Show the seconds of Table S.8."""
    own = [cell for cell in cells if cell.quantity == "seconds"]
    device = escape(settings["device"])
    text = (
        f"The paper’s seconds are those of an {quoted.HARDWARE} and hold the language model’s answer. The measured "
        f"ones are the median of {settings['runs']} encodes of one image on {device}, from the host and back, without "
        "an answer. What compares is what one more sample takes."
    )
    shown = [_against_n0(own, purifier, "Seconds per image", _seconds) for purifier in _measured(own)]
    content = "\n".join([f"<p>{text}</p>", _slopes(own), *shown])
    return section("Seconds against n0 (Table S.8)", content if shown else _nothing_of_s8())


def _slopes(cells: Sequence[Compared]) -> str:
    """Return the table of what one more sample takes; nothing where there are too few points."""
    found = [(purifier, slope(cells, purifier)) for purifier in _measured(cells)]
    rows = [
        [escape(purifier), *map(_milliseconds, both), _signed(both[1] - both[0], _milliseconds)]
        for purifier, both in found
        if both is not None
    ]
    caption = (
        "Milliseconds that one more sample takes: the slope of a line through the n0 that were measured."
    )
    return table(["purifier", "paper", "measured", "Δ"], rows, caption) if rows else ""


def similarity(cells: Sequence[Compared], settings: Mapping[str, Any]) -> str:
    """Show the FCS of Table S.8."""
    own = [cell for cell in cells if cell.quantity == "fcs"]
    text = (
        "FCS is the cosine between the features of a clean image and of an attacked one, both by the smoothed encoder; "
        "the mean over images. The paper attacks with FOA. Here every image is moved towards the features of the next "
        f"one, as AttackVLM does: {settings['attack-steps']} steps of projected gradient ascent on the encoder without "
        f"noise, within the same ℓ∞ {RADIUS}/255. Another attack is another number; how it rises with n0 compares."
    )
    shown = [_against_n0(own, purifier, "FCS under attack", _cosine, 1.0) for purifier in _measured(own)]
    content = "\n".join([f"<p>{text}</p>", *shown])
    return section("Similarity of features against n0 (Table S.8)", content if shown else _nothing_of_s8())


def _against_n0(
    cells: Sequence[Compared],
    purifier: str,
    title: str,
    show: Callable[[float], str],
    top: float | None = None,
) -> str:
    """Return the chart and the table of one purifier."""
    own = [cell for cell in cells if cell.networks == purifier]
    chart = charts.lines(
        {
            "paper": [(cell.at or 0.0, cell.paper) for cell in own if cell.paper is not None],
            "measured": [(cell.at or 0.0, cell.measured) for cell in own if cell.measured is not None],
        },
        title=f"{title}, {purifier}",
        axes=("samples per image, n0", "seconds" if own[0].quantity == "seconds" else "cosine"),
        name=f"{own[0].quantity}-{purifier}",
        spoken=f"{title} against n0 with {purifier}: the paper’s points and the measured line",
        top=top,
    )
    rows = [
        [f"{cell.at:g}", _as_printed(cell), _or_none(cell.measured, show), _difference(cell, show)]
        for cell in own
    ]
    caption = f"{_images(own)} Δ: measured − paper."
    return pair(chart, table(["n0", "paper", "measured", "Δ"], rows, caption))


def table_2(cells: Sequence[Compared], settings: Mapping[str, Any]) -> str:
    """Show Table 2: a chart and a table for every σ and choice of networks that was measured."""
    own = [cell for cell in cells if cell.table == "2"]
    text = (
        "The paper’s FCSB puts the mean score of the samples into its theorem: a plug-in number without confidence. "
        "The same number is measured here, and beside it what the certificates of the same samples guarantee, each "
        f"with probability 1 − α, α = {show_alpha(settings['alpha'])}: the mean over images, where one for which "
        "nothing is certified counts as 0. Where they lie above the plug-in number, their bound is sharper than the "
        "theorem. All of it is against the features that the encoder alone has of the clean image. "
        f"R is the ℓ₂ radius for a cosine of at least {quoted.COSINE:g}, in [0, 1] pixel units. Networks that the "
        "paper’s table lacks are shown without its value."
    )
    groups = sorted({(cell.sigma, cell.networks) for cell in own})
    parts, left = [f"<p>{text}</p>"], []
    for sigma, networks in groups:
        of_group = [cell for cell in own if (cell.sigma, cell.networks) == (sigma, networks)]
        title = f"{_NETWORKS[networks]}, σ = {sigma:g}"
        if of_group[0].images:
            parts.append(_bounds(of_group, title, f"bounds-{sigma:g}-{networks.replace('+', '-')}"))
        else:
            left.append(title)
    if left:
        parts.append(f"<p>Not measured, or not yet: {escape('; '.join(left))}.</p>")
    return section("Certified cosines (Table 2)", "\n".join(parts))


def _bounds(cells: Sequence[Compared], title: str, name: str) -> str:
    curve = [cell for cell in cells if cell.at is not None]
    chart = charts.lines(
        {
            "paper": [(cell.at or 0.0, cell.paper) for cell in curve if cell.paper is not None],
            "plug-in": [(cell.at or 0.0, cell.measured or 0.0) for cell in curve],
            "certified": [(cell.at or 0.0, cell.certified or 0.0) for cell in curve],
        },
        title=title,
        axes=("ℓ₂ radius ε, pixels in [0, 1]", "cosine"),
        name=name,
        spoken=f"Cosine against the radius, {title}: the paper’s points, the plug-in number, the certified one",
        top=1.02,
    )
    rows = [[_at(cell), *_bound(cell)] for cell in cells]
    return pair(chart, table(["ε", *_BOUNDS], rows, _bounds_caption(cells)))


def table_5(cells: Sequence[Compared]) -> str:
    """Show Table 5 without its columns about answers."""
    own = [cell for cell in cells if cell.table == "5"]
    text = (
        "The paper’s ablation. Its last row prints Table 2’s cells of ε = 0.125, 0.375 and 0.5 under 0.25, 0.5 and "
        "0.75; they are quoted as printed. Accuracy and attack success under FOA are not measured."
    )
    rows = [[_ADDED[cell.networks], _at(cell), *_bound(cell)] for cell in own]
    shown = table(["added", "ε", *_BOUNDS], rows, f"σ = {own[0].sigma:g}. {_bounds_caption(own)}")
    if not any(cell.images for cell in own):
        shown = _nothing(f"σ = {own[0].sigma:g}")
    return section("Ablation (Table 5)", f"<p>{text}</p>\n{shown}")


def _bounds_caption(cells: Sequence[Compared]) -> str:
    return (
        f"{_images(cells)} Δ: plug-in − paper. Small: for how many something is certified, where not for all."
    )


def _bound(cell: Compared) -> list[str]:
    return [
        _or_none(cell.paper, _cosine),
        _or_none(cell.measured, _cosine),
        _difference(cell, _cosine),
        _or_none(cell.certified, lambda bound: _certified(bound, cell.share or 0.0)),
    ]


def _certified(bound: float, share: float) -> str:
    if not bound:
        return "none"
    few = f" <small>{100 * share:.0f} %</small>" if share < 1 else ""
    return f"<b>{round_down(bound, 3)}</b>{few}"


def _measured(cells: Sequence[Compared]) -> list[str]:
    """Return the networks that were measured, in the paper's order."""
    return list(dict.fromkeys(cell.networks for cell in cells if cell.images))


def _images(cells: Sequence[Compared]) -> str:
    count = max(cell.images for cell in cells)
    return f"{count} image{'' if count == 1 else 's'}."


def _at(cell: Compared) -> str:
    return "R" if cell.at is None else f"{cell.at:g}"


def _as_printed(cell: Compared) -> str:
    """Return the paper's number with the paper's digits."""
    return _or_none(cell.paper, "{:.2f}".format if cell.quantity == "seconds" else _cosine)


def _nothing_of_s8() -> str:
    return _nothing("adm256 or unet-light as a purifier, and n0 of 1, 2, 4, 8 or 16")


def _nothing(wants: str) -> str:
    return f"<p>Nothing of this table was measured, or not yet: it wants {wants}.</p>"


def _difference(cell: Compared, show: Callable[[float], str]) -> str:
    return _or_none(cell.difference, lambda value: _signed(value, show))


def _signed(value: float, show: Callable[[float], str]) -> str:
    return f"{'−' if value < 0 else '+'}{show(abs(value))}"


def _or_none(value: float | None, show: Callable[[float], str]) -> str:
    return "—" if value is None else show(value)


def _cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{1e3 * value:.1f}"
