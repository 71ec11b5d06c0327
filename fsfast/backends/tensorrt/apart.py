"""A plan is built in a process of its own: if the library crashes, the server lives on; its memory comes back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from fsfast.backends.tensorrt.building import stored
from fsfast.backends.tensorrt.library import Library
from fsfast.backends.tensorrt.plans import Builder, PlanKey
from fsfast.engine.engine import Engine
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.strict_json import parse_json

# Names inside the private folder that both processes share.
REQUEST, PLAN, OUTCOME, LOG, WORDS = "request.json", "plan", "outcome.json", "build.log", "words.txt"
TIMINGS = "timings"
# Seconds. TensorRT may measure thousands of kernels; the largest network of the docs takes minutes.
TIME_LIMIT = 3600.0
_CHILD = "fsfast.backends.tensorrt.child"


def build_apart(engine: Engine, key: PlanKey, library: Library, time_limit: float = TIME_LIMIT) -> Builder:
    """Return a builder for `plans.load_plan` that runs `child` on one stage of the engine.

    The builder raises EngineError when the library cannot build the graph, dies over it, or takes longer than
    `time_limit` seconds, and BackendUnavailable when it cannot build anything here. The build log lies beside the plan
    either way, and so does what the library measured of its kernels: the next build, of any network, starts there.
    """
    if not time_limit > 0:
        raise ValueError(f"wanted a time limit above 0 s, got {time_limit}")

    def build(path: Path) -> dict[str, Any]:
        with TemporaryDirectory(dir=path.parent, prefix=".build-") as name:
            folder = Path(name).absolute()
            request = {
                # A bare "demo" would be the built-in engine.
                "engine": os.path.abspath(engine.path),
                "library": library.name,
                "digest": key.engine_digest,
                "stage": key.stage,
                "precision": key.precision,
                "micro_batch": key.micro_batch,
            }
            (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
            timings = path.with_name(timings_name(key))
            if timings.exists():
                copyfile(timings, folder / TIMINGS)
            code = _run_child(folder, time_limit)
            log = path.with_suffix(".log")
            if (folder / LOG).exists():
                os.replace(folder / LOG, log)
            file = engine.manifest.stages[key.stage][stored(key.precision)].file
            made = f" in {key.precision}" if stored(key.precision) != key.precision else ""
            where = f"{engine.path}: {file}: {library} cannot build it{made}"
            if code is None:
                raise EngineError(
                    f"{where} within {time_limit:g} s; the build log is {log}; allow more (`--time-limit`), or take "
                    "another back end (backend='torch')"
                )
            outcome = _outcome(folder, code, where, log)
            if (folder / TIMINGS).exists():
                os.replace(folder / TIMINGS, timings)
            os.replace(folder / PLAN, path)
        return outcome

    return build


def timings_name(key: PlanKey) -> str:
    """Return the file name of what a library measured on a kind of GPU."""
    text = json.dumps([key.library, key.target])
    return f"timings-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _run_child(folder: Path, time_limit: float) -> int | None:
    """Run the build; return its exit code, minus the signal that ended it, or None where it took too long."""
    # The child finds the packages that this process finds, wherever it found them.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    # The library prints, too.
    with open(folder / WORDS, "wb") as words:
        try:
            return subprocess.run(
                [sys.executable, "-m", _CHILD, str(folder)],
                # The current folder comes first on the child's path: one with nothing to import.
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": paths},
                timeout=time_limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _outcome(folder: Path, code: int, where: str, log: Path) -> dict[str, Any]:
    """Return the record of a finished build; raise what went wrong."""
    remedy = f"the build log is {log}; take another back end (backend='onnxruntime')"
    if code:
        words = (folder / WORDS).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "nothing")
        raise EngineError(f"{where}: {_end(code)}; it said last: {last}; {remedy}")
    outcome: dict[str, Any] = parse_json((folder / OUTCOME).read_bytes())
    if "unavailable" in outcome:
        raise BackendUnavailable(outcome["unavailable"])
    if "error" in outcome:
        raise EngineError(f"{where}: {outcome['error']}; {remedy}")
    return outcome


def _end(code: int) -> str:
    if code >= 0:
        return f"the build ended with code {code}"
    name = signal.Signals(-code).name
    return f"the build was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
