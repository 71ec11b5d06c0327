"""Runs cases one after the other in a process of its own, with limits on memory: `python -m tests.fuzz.worker`.

Reads lines of JSON [kind, seed] and answers each with a line [outcome, what was said, seconds of the processor].
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

# Everything that fsfast itself needs fits; what a file orders without limit does not.
MEMORY = 6 << 30


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.setdefault("FSFAST_CACHE", tempfile.mkdtemp(prefix="fsfast-fuzz-"))
    # Libraries write to the standard output; the answers have a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tests.fuzz.cases import run_case

    for line in sys.stdin:
        kind, seed = json.loads(line)
        start = time.process_time()
        with tempfile.TemporaryDirectory(prefix="fsfast-fuzz-") as folder:
            outcome, said = run_case(kind, seed, Path(folder))
        print(json.dumps([outcome, said, time.process_time() - start]), file=answers, flush=True)


if __name__ == "__main__":
    main()
