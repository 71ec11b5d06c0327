"""Command line: `fsfast demo | info | doctor | encode | certify | verify | bench`.

Exit codes: 0 done, 1 some inputs failed (named on stderr, the rest done), 2 wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from fsfast import __version__
from fsfast.commands import bench, certify, demo, doctor, encode, info, verify
from fsfast.errors import FsfastError

_ENVIRONMENT = """environment:
  FSFAST_CACHE   folder of self-test results (default: $XDG_CACHE_HOME/fsfast or ~/.cache/fsfast)
  FSFAST_SECRET  derive seeds from this secret of at least 16 characters instead of drawing them

exit codes: 0 done, 1 some inputs failed (named on stderr, the rest done), 2 wrong use"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast {args.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fsfast {args.name}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fsfast",
        description="Smoothed vision features, and certificates about them.",
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fsfast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (demo, info, doctor, encode, certify, verify, bench):
        summary, _, rest = (module.__doc__ or "").strip().partition("\n")
        name = module.__name__.rpartition(".")[2]
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}\n{rest}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(sub)
        sub.set_defaults(command=module.run, name=name)
    return parser
