"""Fuzz engines, images and certificates: `python -m tests.fuzz [--cases N] [--kinds …]`, or `make fuzz`.

Every case is a function of its kind and its number; a case that is not refused or harmless is named with both, and is
run again by `--only "KIND" NUMBER`. Results are added to benchmarks/results/fuzz/outcomes.csv: runs in parts add up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue

from benchmarks.measuring.files import write_table
from benchmarks.measuring.tables import read
from tests.fuzz.cases import KINDS, OUTCOMES, run_case

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz" / "outcomes.csv"
# Seconds: a case that takes longer hangs; one for which the processor works longer than the other is slow.
HANG, SLOW = 300.0, 5.0


class Worker:
    """A process that runs cases, replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        line = [sys.executable, "-m", "tests.fuzz.worker"]
        self._process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )

    def run(self, kind: str, seed: int) -> tuple[str, str]:
        """Return the outcome of a case, and what was said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(HANG, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([kind, seed]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            hung = not timer.is_alive()
            timer.cancel()
        if answer:
            outcome, said, seconds = json.loads(answer)
            return ("slow", f"{seconds:.1f} s") if seconds > SLOW and outcome != "crash" else (outcome, said)
        code = self._process.wait()
        self._start()
        return ("hang", f"{HANG:.0f} s") if hung else ("crash", f"exit {code}")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def outcomes(cases: Sequence[tuple[str, int]], workers: int) -> Iterator[tuple[str, int, str, str]]:
    """Yield kind, number, outcome and what was said of cases, run side by side."""
    waiting: Queue[tuple[str, int] | None] = Queue()
    done: Queue[tuple[str, int, str, str]] = Queue()
    for case in [*cases, *[None] * workers]:
        waiting.put(case)

    def work() -> None:
        worker = Worker()
        while (case := waiting.get()) is not None:
            done.put((*case, *worker.run(*case)))
        worker.close()

    team = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in team:
        thread.start()
    for _ in cases:
        yield done.get()
    for thread in team:
        thread.join()


def read_results() -> dict[str, Counter[str]]:
    """Return kind → outcome → number of cases, as the results file has them."""
    rows = read(RESULTS) if RESULTS.exists() else []
    return {row["kind"]: Counter({k: int(row[k]) for k in OUTCOMES}) for row in rows}


def write_results(results: dict[str, Counter[str]]) -> None:
    """Write the results file."""
    done = {kind: results[kind] for kind in KINDS if kind in results}
    write_table(
        RESULTS,
        [
            {"kind": k, "cases": counts.total(), **{o: counts[o] for o in OUTCOMES}}
            for k, counts in done.items()
        ],
    )


def main(argv: list[str] | None = None) -> int:
    """Run cases; exit code 1 where one is neither refused nor harmless."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--cases", type=int, default=500, help="of each kind, after those that are done (default 500)"
    )
    parser.add_argument("--kinds", nargs="+", metavar="KIND", default=list(KINDS), help="beginnings of names")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--again", action="store_true", help="begin at number 0, and forget earlier results")
    parser.add_argument(
        "--only", nargs=2, metavar=("KIND", "NUMBER"), help="run one case here, and say what it says"
    )
    args = parser.parse_args(argv)
    if args.only:
        with tempfile.TemporaryDirectory() as folder:
            print(*run_case(args.only[0], int(args.only[1]), Path(folder)))
        return 0
    results = {} if args.again else read_results()
    kinds = [kind for kind in KINDS if kind.startswith(tuple(args.kinds))]
    done = {kind: results.get(kind, Counter()).total() for kind in kinds}
    cases = [(kind, done[kind] + i) for kind in kinds for i in range(args.cases)]
    odd = 0
    # In parts, so that an interruption loses little; cases of a kind that it cut off are run again.
    for count, (kind, number, outcome, said) in enumerate(outcomes(cases, args.workers), 1):
        results.setdefault(kind, Counter())[outcome] += 1
        if outcome not in ("refused", "harmless"):
            odd += 1
            print(f"{outcome}: {kind!r} {number}: {said}", flush=True)
        if count % 1000 == 0:
            write_results(results)
    write_results(results)
    for kind in kinds:
        print(f"{kind}: {', '.join(f'{results[kind][o]} {o}' for o in OUTCOMES if results[kind][o])}")
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
