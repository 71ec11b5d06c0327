"""`python -m study attack | results | soundness`: the door to the commands."""

from __future__ import annotations

import sys

from export.stopping import run

_USAGE = "usage: python -m study attack | results | soundness …; --help after one of them says more"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 a certificate was broken, 2 wrong use."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = arguments[:1], arguments[1:]
    if command == ["attack"]:
        from study.attack_command import main as attack

        return attack(rest)
    if command == ["results"]:
        from study.results import main as results

        return results(rest)
    if command == ["soundness"]:
        from study.soundness import main as soundness

        return soundness(rest)
    helped = command in (["--help"], ["-h"])
    print(_USAGE, file=sys.stdout if helped else sys.stderr)
    return 0 if helped else 2


if __name__ == "__main__":
    run("python -m study", main, "cpu", "train")
