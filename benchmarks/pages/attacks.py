"""The tables about attacks on the built-in engines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, read

Row = dict[str, str]
# An attack counts if it reaches this share where it has to.
WORKS = 0.9
_PUBLISHED = ("attackvlm", "m-attack", "foa-attack", "class")
_ADAPTIVE = ("eot-4", "eot-16", "eot-32")
_SERVED = "smoothed, n0 = 4"


def updated(text: str) -> str:
    """Return a document with the tables that it names made anew; those of missing results files stay empty."""
    folder = RESULTS / "attacks"
    for name, (file, render) in _RENDERED.items():
        place = re.compile(rf"(<!-- attacks {name} -->\n).*?(<!-- end of attacks {name} -->)", re.DOTALL)
        path = folder / file
        shown = render(read(path)) if path.exists() else ""
        text = place.sub(lambda m, shown=shown: m[1] + shown + m[2], text)
    return text


def render_works(rows: Sequence[Row]) -> str:
    """Return whether attacks work where they have to: on the encoder alone, and with large radii on the defence."""
    cells = [
        [row["engine"], row["attack"], row["eps"], row["defence"], _share(row, "hit"), _counts(row)]
        for row in rows
        if (row["attack"] in _PUBLISHED and row["eps"] == "16/255" and row["defence"] == "none")
        or (row["attack"] in _ADAPTIVE and row["defence"] == _SERVED)
    ]
    return markdown(("engine", "attack", "ε", "on", "target's class", "counts"), cells) if cells else ""


def render_part(rows: Sequence[Row], engine: str) -> str:
    """Return attack × defence × ε of one engine: how often the target's class is seen, and how often the right one."""
    chosen = [row for row in rows if row["engine"] == engine]
    defences = list(dict.fromkeys(row["defence"] for row in chosen))
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in chosen:
        groups.setdefault((row["attack"], row["eps"]), {})[row["defence"]] = row
    if not groups:
        return ""
    cells = [
        [attack, eps or "—", *(_both(found[defence]) for defence in defences)]
        for (attack, eps), found in groups.items()
    ]
    first = chosen[0]
    return (
        f"{markdown(('attack', 'ε', *defences), cells)}\n{first['images']} images, up to "
        f"{max(int(row['seeds']) for row in chosen)} seeds of the attack. Target's class / right class, in brackets "
        "the 95 % interval of the right ones (bootstrap over images).\n"
    )


def render_numbers(rows: Sequence[Row]) -> str:
    """Return the plain and the adaptive attack on digits in one sentence; nothing before both have been measured."""
    found = {
        (row["attack"], row["defence"]): row
        for row in rows
        if row["eps"] == "16/255" and row["engine"] == "demo"
    }
    wanted = (("class", "none"), ("class", _SERVED), ("eot-8-rounds", _SERVED))
    if not all(key in found for key in wanted):
        return ""
    alone, plain, adaptive = (_percent(found[key]["hit"]) for key in wanted)
    return (
        f"On the built-in digits, ℓ∞ 16/255: an attack on the encoder alone reaches its target in {alone} of the "
        f"images there, and in {plain} where features are smoothed; one that differentiates through the whole "
        f"defence in {adaptive}. No certificate speaks of changes that large.\n"
    )


def render_soundness(rows: Sequence[Row]) -> str:
    """Return how often certificates were tried, and how close it was."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["engine"], row["networks"], row["share"]), []).append(row)
    cells = []
    for (engine, networks, share), found in groups.items():
        tried = [row for row in found if row["attempts"] != "0"]
        if not tried:
            continue
        worst = min(tried, key=lambda row: float(row["margin"]))
        cells.append(
            [
                engine,
                networks.replace("+", " + "),
                share,
                str(len(tried)),
                f"{sum(int(row['attempts']) for row in tried):,}",
                str(sum(int(row["violations"]) for row in tried)),
                f"{float(worst['margin']):.3f} ± {float(worst['error']):.3f}",
                f"{float(worst['epsilon']):.3f}",
            ]
        )
    header = (
        "engine",
        "networks",
        "of the radius",
        "certificates",
        "attempts",
        "violations",
        "smallest margin",
        "at ε",
    )
    return markdown(header, cells)


def _counts(row: Row) -> str:
    """Say whether an attack is strong enough for its failures to mean anything."""
    if row["defence"] != "none" and row["eps"] != "64/255":
        return ""
    return "yes" if float(row["hit"]) >= WORKS else "**no**"


def _both(row: Row) -> str:
    return f"{_percent(row['hit'])} / {_share(row, 'right')}"


def _share(row: Row, name: str) -> str:
    low, high = (_percent(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{_percent(row[name])} ({low} to {high})"


def _percent(text: str) -> str:
    return f"{float(text):.0%}"


# Name in documents → results file and what shows it.
_RENDERED: dict[str, tuple[str, Callable[[Sequence[Row]], str]]] = {
    "numbers": ("summary.csv", render_numbers),
    "works": ("summary.csv", render_works),
    "digits": ("summary.csv", lambda rows: render_part(rows, "demo")),
    "photo": ("summary.csv", lambda rows: render_part(rows, "photo")),
    "soundness": ("soundness.csv", render_soundness),
}
