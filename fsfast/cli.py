"""Command line: `fsfast COMMAND`, one of those in fsfast/commands/.

Exit codes: 0 done, 1 some inputs failed (named on stderr, the rest done), 2 wrong use.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, TextIO, cast

from fsfast._version import __version__
from fsfast.commands import (
    bench,
    certify,
    demo,
    doctor,
    encode,
    export,
    info,
    inspect,
    plan,
    push,
    serve,
    summary,
    verify,
)
from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError, printable

_EPILOG = """environment:
  FSFAST_API_KEY: the key that encode --server presents
  FSFAST_BACKEND: what --backend auto means, onnxruntime or openvino (default: the faster one by measurement)
  FSFAST_CACHE: folder of self-test results and measurements (default: $XDG_CACHE_HOME/fsfast or ~/.cache/fsfast)
  FSFAST_SECRET: derive seeds from this secret of at least 16 bytes instead of drawing them
  FSFAST_INSTRUCTION_SET: what the kernels run on, of those that doctor names (default: the fastest; same bits)

exit codes:
  0: done
  1: some inputs failed (named on stderr, the rest done), a certificate is not the same, or no engine can be made of
     a file
  2: wrong use
  130: interrupted by Ctrl-C"""

# 128 + SIGPIPE, as the shell reports a program that its reader left.
_READER_LEFT = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text, and not every terminal knows σ.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    except BrokenPipeError:
        _discard_output()
        return _READER_LEFT


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help(sys.stderr)
        return 2
    try:
        args = _parse(parser, words)
    except SystemExit:
        # --help and --version print and leave.
        _flush()
        raise
    if args.verbose:
        logging.basicConfig(format="fsfast: %(message)s", stream=sys.stderr)
        logging.getLogger("fsfast").setLevel(logging.INFO)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        with redirect_stdout(cast(TextIO, _Printable(sys.stdout))), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(args.name, str(message))
            code = command(args)
        _flush()
        return code
    except SystemExit:
        # `fsfast export` ends so.
        _flush()
        raise
    except BrokenPipeError:
        raise
    except MemoryError as error:
        _say(args.name, f"not enough memory: {error}")
        return 2
    except (FsfastError, ValueError, OSError) as error:
        _say(args.name, str(error))
        return 2
    except KeyboardInterrupt:
        _say(args.name, "interrupted")
        return 130


def _parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; what follows `export` is the exporter's to parse."""
    behind = next((i for i, word in enumerate(words, 1) if not word.startswith("-")), len(words))
    if words[behind - 1] != "export":
        return parser.parse_args(words)
    args = parser.parse_args(words[:behind])
    args.arguments = words[behind:]
    return args


def _say(command: str, text: str) -> None:
    print(f"fsfast {command}: {printable(text)}", file=sys.stderr)


class _Printable:
    """A stream on which names from files cannot steer the terminal; everything else as the stream itself."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _flush() -> None:
    # A write that fails must fail here: at exit the interpreter could only print "Exception ignored".
    if sys.stdout is not None:
        sys.stdout.flush()


def _discard_output() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail again."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _parser() -> Parser:
    parser = Parser(
        prog="fsfast",
        description="Smoothed vision features, and certificates about them.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fsfast {__version__}")
    _add_verbose(parser, False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="fsfast")
    everyday = (demo, inspect, info, doctor, encode, certify, verify, summary, serve)
    for module in (*everyday, bench, plan, export, push):
        title, _, rest = (module.__doc__ or "").strip().partition("\n")
        name = module.__name__.rpartition(".")[2]
        sub = commands.add_parser(name, help=title, description=f"{title}\n{rest}")
        module.arguments(sub)
        # Given before the command, it stays.
        _add_verbose(sub, argparse.SUPPRESS)
        sub.set_defaults(command=module.run, name=name)
    return parser


def _add_verbose(parser: Parser, default: Any) -> None:
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=default,
        help="say on stderr what was chosen, and why",
    )
