"""Make directions of classes from their names: `fsfast export text CHECKPOINT --names FILE --out FILE.safetensors`.

A name is put into each template, the text tower makes a direction of each text, and a class gets the mean of its
directions, as CLIP's authors do it. They lie in the space of the same checkpoint's pooled image features. Other
commands take the file with --classes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from fsfast.commands.parser import Parser
from fsfast.errors import FsfastError
from fsfast.models.averages import Weights

from .class_rows import read_names, save_texts
from .stopping import exit_without, run

if TYPE_CHECKING:
    from fsfast.models.text import TextTower

    from .texts import Texts

TEMPLATE = "a photo of a {}."
# Texts that the tower reads at once; more where a class has more.
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Write the directions that the arguments name; return the exit code."""
    args = _parser().parse_args(argv)
    out = Path(args.out)
    try:
        if out.suffix != ".safetensors":
            raise ValueError(f"wanted --out as a name that ends in .safetensors, got {out}")
        if os.path.lexists(out) and not args.force:
            raise ValueError(f"{out} exists; pass --force to replace it")
        names = read_names(Path(args.names))
        # torch and tokenizers are imported only now, so that --help and wrong arguments answer at once.
        try:
            from fsfast.models import load_text_tower

            from .texts import Texts, templates_of
        except ImportError as error:
            exit_without("fsfast export text", error, "text")

        templates = templates_of(_templates(args.template, args.templates))
        checkpoint = Path(args.checkpoint)
        loaded = load_text_tower(checkpoint, args.activation, weights=args.weights)
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        texts = Texts(Path(args.tokenizer) if args.tokenizer else folder, loaded.module.config)
        rows = directions(loaded.module, texts, names, templates)
        files = ", ".join(f"{file.name} (sha256 {file.sha256})" for file in loaded.files)
        more = f" and {len(templates) - 1} more" if len(templates) > 1 else ""
        read = f"text tower, {loaded.layout} layout: {files}; {'; '.join(loaded.notes)}"
        save_texts(out, names, rows, f"{read}; template {templates[0]!r}{more}")
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export text: {error}", file=sys.stderr)
        return 2
    print(f"{out}: directions of {len(names)} classes, {rows.shape[1]} numbers each")
    return 0


def directions(tower: TextTower, texts: Texts, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Return the directions of classes, [K, D] float32 of norm 1.

    Args:
        tower: the text tower.
        texts: its tokens.
        names: of the K classes.
        templates: the texts of a class, with {} for its name; the mean of their directions is the class's.

    Raises:
        ValueError: a text is too long.
    """
    import torch
    from torch.nn.functional import normalize

    found, at_once = [], max(_BATCH // len(templates), 1)
    with torch.inference_mode():
        for begin in range(0, len(names), at_once):
            some = names[begin : begin + at_once]
            tokens, ends = texts.tokens([text.replace("{}", name) for name in some for text in templates])
            each = normalize(tower(torch.tensor(tokens), torch.tensor(ends)), dim=-1)
            found.append(normalize(each.unflatten(0, (len(some), -1)).mean(1), dim=-1))
    return torch.cat(found).numpy()


def _templates(given: Sequence[str], file: str | None) -> list[str]:
    listed = [] if file is None else Path(file).read_text(encoding="utf-8-sig").split("\n")
    return [*given, *(line.strip() for line in listed if line.strip())] or [TEMPLATE]


def _parser() -> Parser:
    parser = Parser(prog="fsfast export text", description=__doc__)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a CLIP as OpenAI, open_clip or transformers saves it, or a SigLIP as transformers does: a directory or a "
        "file",
    )
    parser.add_argument(
        "--names", required=True, metavar="FILE", help="of the classes: one per line, or a .json list"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="a .safetensors file to write")
    parser.add_argument("--force", action="store_true", help="replace a file that stands there")
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="TEXT",
        help=f"a text with {{}} for the name; may be given several times (default: {TEMPLATE!r})",
    )
    parser.add_argument("--templates", metavar="FILE", help="more of them, one per line")
    parser.add_argument(
        "--tokenizer",
        metavar="FILE_OR_DIR",
        help="tokenizer.json, or a folder with one or with vocab.json and merges.txt (default: beside the weights)",
    )
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="of a CLIP's file alone, which does not say it: quick_gelu for OpenAI's weights and what began with them",
    )
    parser.add_argument(
        "--weights",
        choices=get_args(Weights),
        help="of a file that holds raw weights and their average over training",
    )
    return parser


if __name__ == "__main__":
    run("fsfast export text", main, "export", "text")
