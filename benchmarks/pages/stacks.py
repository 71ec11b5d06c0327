"""The tables about libraries and servers that embed the encoder: how, tested against what, and at which cost."""

from __future__ import annotations

import re
from posixpath import relpath

from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import markdown, number, read
from fsfast.integrations.hosts import HOSTS

_HOSTS = re.compile(r"(<!-- stacks from (\S+) -->\n).*?(<!-- end of stacks -->)", re.DOTALL)
_COSTS = re.compile(r"(<!-- cost of stacks in (\S+) -->\n).*?(<!-- end of cost -->)", re.DOTALL)


def updated(text: str) -> str:
    """Return a document with its tables made anew; it says in which folder it lies."""
    text = _HOSTS.sub(lambda m: m[1] + render_hosts(m[2]) + m[3], text)
    return _COSTS.sub(lambda m: m[1] + render_costs(m[2]) + m[3], text)


def render_hosts(folder: str) -> str:
    """Return the hosts as a table, whose links begin in a folder."""
    cells = [
        [f"[{host.title}]({relpath(f'docs/{host.page}', folder)})", host.how, host.tested]
        for host in HOSTS.values()
    ]
    return markdown(("stack", "how", "tested against"), cells)


def render_costs(folder: str) -> str:
    """Return what a tower costs per image, the host's own beside engines."""
    path = RESULTS / folder / "stacks.csv"
    if not path.exists():
        return ""
    rows = read(path)
    cells = [
        [
            r["case"].removeprefix("tower, "),
            r["variant"],
            number(r["p50_ms"]),
            f"{1 / float(r['share']):.1f}",
        ]
        for r in rows
    ]
    table = markdown(("engine", "tower", "ms per image (median)", "× the host's own"), cells)
    return f"{table}\n{folder}, {rows[0]['date']}: torch {rows[0]['torch']}, ONNX Runtime {rows[0]['onnxruntime']}.\n"
