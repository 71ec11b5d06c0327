"""argparse as the commands use it: options of several values, help that fits the terminal, errors with a remedy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from textwrap import fill
from typing import Any, NoReturn

from fsfast.errors import did_you_mean, printable

# Longer lines are hard to read.
_WIDEST = 100


class Several(argparse.Action):
    """An option of several values: `--n0 1,2`, `--n0 1 2` or `--n0 1 --n0 2`.

    Only words that read as values belong to it, so that positional arguments may follow.

    Args:
        item: reads one value; raises ValueError.
    """

    def __init__(self, *args: Any, item: Callable[[str], Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self.item = item

    def read(self, text: str) -> list[Any]:
        """Return the values in a word; raises ValueError."""
        try:
            return [self.item(text)]
        except ValueError:
            if "," not in text:
                raise
        return [self.item(part) for part in text.split(",")]

    def reads(self, text: str) -> bool:
        """Whether a word is one or more values."""
        try:
            return bool(self.read(text))
        except ValueError:
            return False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the values to those that were given before."""
        before = getattr(namespace, self.dest)
        try:
            found = self.read(values)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, found if before is self.default else [*before, *found])


def number(text: str) -> float:
    """Read a number, for `Several`."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"wanted numbers such as 0.1,0.2, got {text!r}") from None


def integer(text: str) -> int:
    """Read an integer, for `Several`."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"wanted integers such as 1,2, got {text!r}") from None


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return a reader of one of these names, for `Several`."""
    known = tuple(names)

    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"wanted one of {', '.join(known)}, got {text!r}{did_you_mean(text, known)}")
        return text

    return read


class Parser(argparse.ArgumentParser):
    """The parser of a program or of one command; it refuses unknown options itself, with its own usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, but leave nothing unknown; IMAGE … may stand on both sides of an option."""
        words = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(self._one_value_each(words), namespace)
        for word in unknown:
            if word.startswith("-") and word not in ("-", "--"):
                self._refuse(word)
        if unknown:
            last = self._get_positional_actions()[-1:]
            if not last or last[0].nargs != argparse.ONE_OR_MORE:
                self.error(f"wanted nothing more, got {unknown[0]!r}")
            setattr(found, last[0].dest, [*getattr(found, last[0].dest), *unknown])
        return found, []

    def error(self, message: str) -> NoReturn:
        """Print usage and message, whatever characters it quotes, and exit with 2."""
        super().error(printable(message))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None

    def _one_value_each(self, words: list[str]) -> list[str]:
        """Write `--n0 1 2 demo` as `--n0=1 --n0=2 demo`."""
        written: list[str] = []
        start = 0
        while start < len(words) and words[start] != "--":
            # Before argparse misses what it may stand for.
            if not self._knows(words[start]):
                self._refuse(words[start])
            option, end = self._several(words[start]), start + 1
            while option is not None and end < len(words) and option.reads(words[end]):
                end += 1
            values = words[start + 1 : end]
            self._refuse_files(words[start], values[1:])
            written += [f"{words[start]}={value}" for value in values] or [words[start]]
            start = end
        return written + words[start:]

    def _knows(self, word: str) -> bool:
        """Whether a word may be one of the options, in full or by its beginning, or of a later command."""
        name = word.partition("=")[0]
        return (
            self._subparsers is not None
            or not word.startswith("--")
            or any(known.startswith(name) for known in self._option_string_actions)
        )

    def _refuse(self, option: str) -> NoReturn:
        name = option.partition("=")[0]
        self.error(f"unknown option {name}{did_you_mean(name, self._option_string_actions)}")

    def _several(self, word: str) -> Several | None:
        """Return the option of several values that a word names, in full or by its beginning."""
        known = self._option_string_actions
        found = [known[word]] if word in known else [known[name] for name in known if name.startswith(word)]
        alone = word.startswith("--") and all(option is found[0] for option in found)
        return found[0] if alone and found and isinstance(found[0], Several) else None

    def _refuse_files(self, option: str, values: Sequence[str]) -> None:
        """Refuse values that may be meant as positional arguments: a picture may be called 7."""
        if self._get_positional_actions() and (files := [value for value in values if os.path.isfile(value)]):
            self.error(
                f"{files[0]} after {option} is a value, and there is a file of this name; write ./{files[0]} for the "
                f"file, or {option}={files[0]} for the value"
            )


class _Help(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width; an indented line is an entry of a list and stays one."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        self._width = min(self._width, _WIDEST)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Show what must be given; the options are listed below."""
        needed = [action for action in actions if action.required or not action.option_strings]
        options = argparse.Action([], "options", nargs="?", metavar="options")
        super().add_usage(usage, [options, *needed], (), prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(_filled(paragraph, width) for paragraph in text.strip().split("\n\n"))


def _filled(paragraph: str, width: int) -> str:
    if "\n  " not in paragraph:
        return fill(" ".join(paragraph.split()), width, break_on_hyphens=False)
    lines = paragraph.splitlines()
    return "\n".join(fill(line, width, subsequent_indent="      ", break_on_hyphens=False) for line in lines)
