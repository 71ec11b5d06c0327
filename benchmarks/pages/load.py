"""The tables about `fsfast serve` under load."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, number, read

_NAMES = {"vit-b16-random": "ViT-B/16 (random weights)"}


def updated(text: str) -> str:
    """Return a document with the tables that it names made anew; those of missing results files stay empty."""
    for name, render in _RENDERED.items():
        place = re.compile(rf"(<!-- load {name}: (\S+) -->\n).*?(<!-- end of load {name} -->)", re.DOTALL)
        text = place.sub(
            lambda m, name=name, render=render: m[1] + _rendered(m[2], name, render) + m[3], text
        )
    return text


def _rendered(folder: str, name: str, render: Callable[[list[dict[str, str]]], str]) -> str:
    path = RESULTS / "load" / folder / f"{name}.csv"
    return render(read(path)) if path.exists() else ""


def render_loads(rows: list[dict[str, str]]) -> str:
    """Return what requests cost, by engine and clients."""
    cells = [
        [
            _NAMES.get(r["engine"], r["engine"]),
            r["clients"],
            r["requests"],
            *(number(r[name]) for name in ("requests_per_s", "p50_ms", "p95_ms", "server_ms", "engine_ms")),
            f"{float(r['own_ms']):.1f}",
            f"{float(r['own_share']):.1%}",
            number(r["memory_mb"]),
        ]
        for r in rows
    ]
    header = (
        *("engine", "clients", "requests", "requests/s", "ms (median)", "ms (p95)"),
        *("processor ms: server", "`encode`", "the server's own", "its share of `encode`", "MB"),
    )
    where = (
        f"Measured on {rows[0]['device']} at {rows[0]['date']}; clients and server share its processors.\n"
    )
    return f"{markdown(header, cells)}\n{where}"


def render_overload(rows: list[dict[str, str]]) -> str:
    """Return what becomes of twice as many requests as can be answered."""
    counted = ("requests", "good", "refused", "unreached", "other", "wrong")
    cells = [
        [
            *(f"{int(r[name]):,}" for name in counted),
            *(number(r[name]) for name in ("capacity_per_s", "goodput_per_s")),
            f"{float(r['goodput_share']):.0%}",
            *(f"{float(r[name]):.1f}" for name in ("capacity_ms", "overload_ms")),
            f"{float(r['processor_share']):.0%}",
            *(number(r[name]) for name in ("before_mb", "after_mb")),
        ]
        for r in rows
    ]
    header = (
        *("requests", "good", "refused (429)", "unreached", "other", "wrong answers"),
        *(
            "capacity/s",
            "goodput/s",
            "its share",
            "processor ms per good answer: at capacity",
            "at twice that",
        ),
        *("its share", "MB, early", "MB, in the end"),
    )
    return markdown(header, cells)


def render_endurance(rows: list[dict[str, str]]) -> str:
    """Return how a long run ended, and one whose server was killed."""
    counted = ("requests", "good", "bad_images", "refused", "unreached", "other", "wrong")
    cells = [
        [
            r["case"],
            *(f"{int(r[name]):,}" for name in counted),
            number(r["before_mb"]),
            number(r["after_mb"]),
        ]
        for r in rows
    ]
    header = (
        *("run", "requests", "good", "no picture (400)", "refused (429)", "unreached", "other"),
        *("wrong answers", "MB, early", "MB, in the end"),
    )
    return markdown(header, cells)


def render_faults(rows: list[dict[str, str]]) -> str:
    """Return what broken clients got."""
    cells = [[r["name"], r["got"], "yes" if r["others"] == "True" else "**no**"] for r in rows]
    return markdown(("client", "got", "others were served"), cells)


_RENDERED = {
    "loads": render_loads,
    "overload": render_overload,
    "endurance": render_endurance,
    "faults": render_faults,
}
