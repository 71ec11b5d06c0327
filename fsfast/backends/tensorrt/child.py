"""The process that builds one plan: `python -m fsfast.backends.tensorrt.child FOLDER`, as `apart` calls it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from fsfast.backends.tensorrt.apart import LOG, OUTCOME, PLAN, REQUEST, TIMINGS
from fsfast.backends.tensorrt.bfloat16 import in_bfloat16
from fsfast.backends.tensorrt.building import BFLOAT16, build_plan, stage_tensors, stored
from fsfast.backends.tensorrt.library import find_library, new_log
from fsfast.engine.engine import load_engine
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.files import write_whole
from fsfast.strict_json import parse_json


def main(folder: Path) -> None:
    """Read the request in `folder`, write the plan and the outcome there."""
    request = parse_json((folder / REQUEST).read_bytes())
    outcome: dict[str, Any]
    with open(folder / LOG, "w", encoding="utf-8") as file:
        try:
            outcome = _build(folder, request, file)
        except BackendUnavailable as error:
            outcome = {"unavailable": str(error)}
        except (EngineError, ValueError) as error:
            outcome = {"error": str(error)}
    write_whole(folder / OUTCOME, json.dumps(outcome).encode())


def _build(folder: Path, request: dict[str, Any], file: TextIO) -> dict[str, Any]:
    stage, precision = request["stage"], request["precision"]
    library = find_library(request["library"])
    engine = load_engine(request["engine"])
    if engine.digest != request["digest"]:
        raise EngineError("another engine stands there than the one that was loaded; load it again")
    graph = engine.graph(stage, stored(precision), request["micro_batch"])
    if precision == BFLOAT16:
        graph = in_bfloat16(graph)
    weights = engine.read(engine.manifest.stages[stage][stored(precision)].weights)
    tensors = stage_tensors(engine.manifest, stage, precision)
    start = time.perf_counter()
    timings = folder / TIMINGS
    known = timings.read_bytes() if timings.exists() else b""
    log = new_log(library, file)
    plan = build_plan(library, log, graph, weights, tensors, request["micro_batch"], known)
    seconds = time.perf_counter() - start
    if plan.timings:
        write_whole(timings, plan.timings)
    # Hashed in memory, before a disk has touched it.
    digest = hashlib.sha256(plan.content).hexdigest()
    write_whole(folder / PLAN, plan.content)
    return {
        "sha256": digest,
        "bytes": len(plan.content),
        "layers": plan.layers,
        "seconds": round(seconds, 3),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Return the most memory that this process has held, 0 where the kernel does not say.

    Not getrusage: its figure outlives exec, and would be that of the server that started this process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
