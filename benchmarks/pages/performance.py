"""Tables of one results file each, from the folders that a document names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, number, read, share

_PLACE = re.compile(
    r"(<!-- (?P<kind>techniques|numbers|others|sets): (?P<group>\S+) in (?P<folder>\S+) -->\n).*?(<!-- end of \w+ -->)",
    re.DOTALL,
)


def techniques(rows: Sequence[dict[str, str]]) -> str:
    """Return the waterfalls among the rows, a table per case: speed, memory and accuracy in one line."""
    found = [row for row in rows if row.get("memory_mb") and row.get("cosine")]
    parts = []
    for case in dict.fromkeys(row["case"] for row in found):
        mine = [row for row in found if row["case"] == case]
        cells = [
            [
                row["variant"],
                number(str(1000 / float(row["rate"]))),
                f"{float(row['share']):.2f}" if row["share"] else "",
                f"{float(row['memory_mb']):.0f}",
                f"{float(row['cosine']):.6f}",
            ]
            for row in mine
        ]
        against = f"× {mine[0]['of']}" if mine[0]["of"] else "×"
        header = (case, "ms per sample", against, "peak memory, MB", "cosine to float32")
        parts.append(markdown(header, cells))
    return "\n".join(parts)


def numbers(rows: Sequence[dict[str, str]]) -> str:
    """Return the waterfalls of several n0 as one table: milliseconds per sample, memory and accuracy at the largest."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for row in rows:
        case, _, n0 = row["case"].partition(", n0=")
        if n0 and row["cosine"]:
            found.setdefault(row["variant"], {})[int(n0)] = row
    columns = sorted({n0 for by_number in found.values() for n0 in by_number})
    most = columns[-1]
    cells = [
        [
            variant,
            *(number(str(1000 / float(by_number[n0]["rate"]))) for n0 in columns),
            f"{float(by_number[most]['share']):.2f}",
            f"{float(by_number[most]['memory_mb']):.0f}",
            f"{float(by_number[most]['cosine']):.6f}",
        ]
        for variant, by_number in found.items()
    ]
    first = next(row for row in rows if ", n0=" in row["case"])
    case = first["case"].partition(", n0=")[0]
    header = (
        f"{case}, ms per sample",
        *(f"n0 = {n0}" for n0 in columns),
        f"× {first['of']}, n0 = {most}",
        "peak memory, MB",
        "cosine to float32",
    )
    return markdown(header, cells)


def others(rows: Sequence[dict[str, str]]) -> str:
    """Return the rows that are no waterfall."""
    cells = []
    for row in rows:
        if row.get("memory_mb") and row.get("cosine"):
            continue
        more = {
            "memory_mb": "{:.0f} MB of memory",
            "disk_mb": "{:.1f} MB on disk",
            "radius": "mean radius {:.3f}",
            "cosine": "cosine {:.6f}",
        }
        facts = [text.format(float(row[key])) for key, text in more.items() if row.get(key)]
        speed = [number(row["p50_ms"]), f"{number(row['rate'])} {row['unit']}"] if row["unit"] else ["", ""]
        cells.append([row["case"], row["variant"], *speed, "; ".join([*facts, *filter(None, [share(row)])])])
    return markdown(("case", "variant", "ms (median)", "rate", ""), cells)


def sets(rows: Sequence[dict[str, str]]) -> str:
    """Return a table of kernels with a column per instruction set: milliseconds, and what they are measured by."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        name, _, variant = row["variant"].partition(", ")
        found.setdefault(f"{row['case']}, {variant}", {})[name] = row
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    cells = [
        [case, *(f"{number(by_name[name]['p50_ms'])} ({share(by_name[name])})" for name in names)]
        for case, by_name in found.items()
    ]
    return markdown(("kernel, type, ms", *names), cells)


def render(kind: str, path: Path) -> str:
    """Return a table of a results file with the circumstances beneath; nothing where there is no file."""
    if not path.exists():
        return ""
    rows = read(path)
    first = rows[0]
    foot = (
        f"\n{first['device']}, {first['date']}: ONNX Runtime {first['onnxruntime']}, OpenVINO {first['openvino']}, "
        f"torch {first['torch']}.\n"
    )
    return {"techniques": techniques, "numbers": numbers, "others": others, "sets": sets}[kind](rows) + foot


def updated(text: str) -> str:
    """Return the document with its tables made anew."""
    return _PLACE.sub(
        lambda m: m[1] + render(m["kind"], RESULTS / m["folder"] / f"{m['group']}.csv") + m[5], text
    )
