"""Give an engine classes: `fsfast export classes ENGINE --classes FILE --names FILE --out DIR`.

The networks stay as they are. The new engine is another one, with a digest of its own: certificates of the old engine
belong to that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fsfast.commands.parser import Parser
from fsfast.engine.engine import load_engine
from fsfast.engine.writer import check_target, save_engine
from fsfast.errors import FsfastError

from .card import with_classes
from .class_rows import ClassRows, add_arguments, class_files, read_classes
from .engine_recipe import recipe_of_engine
from .networks import encoder_config
from .stopping import run

_CARD = "model-card.md"


def add_classes(source: str | Path, classes: ClassRows, path: str | Path, *, force: bool = False) -> str:
    """Write an engine with classes in the place of those that `source` may have, and return its digest.

    Args:
        source: the engine, or a built-in one's name.
        classes: rows and names.
        path: the new engine's directory.
        force: replace an engine that stands there.

    Raises:
        EngineError: the source cannot be used, or something stands at `path`.
        ValueError: the rows are not for its features, or its results speak of other classes.
    """
    check_target(path, force)
    engine = load_engine(source)
    manifest, record = engine.manifest, engine.manifest.record
    if "results" in record:
        raise ValueError(
            f"{engine.path} has results that were measured with its own classes; start from an engine without results"
        )
    recipe = recipe_of_engine(engine)
    classes.check(manifest.output, manifest.dim, None if recipe.outside else encoder_config(recipe))
    changed, files = classes.stored(recipe.store).into(record)
    if _CARD in manifest.files:
        files[_CARD] = with_classes(engine.read(_CARD).decode("utf-8"), changed).encode()
    replaced = {*files, record["classes"]["file"]} if "classes" in record else files
    kept = {name: engine.path / name for name in manifest.files if name not in replaced}
    return save_engine(path, changed, {**kept, **files}, force=force)


def main(argv: Sequence[str] | None = None) -> int:
    """Add classes as the arguments say; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        files = class_files(args)
        assert files is not None
        classes = read_classes(files)
        digest = add_classes(args.engine, classes, args.out, force=args.force)
    except (FsfastError, ValueError, OSError) as error:
        print(f"fsfast export classes: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(classes.names)} classes, digest {digest[:16]}…")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="fsfast export classes", description=__doc__)
    parser.add_argument("engine", metavar="ENGINE", help="directory of an engine")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument("--force", action="store_true", help="replace an engine that stands there")
    add_arguments(parser, required=True)
    return parser


if __name__ == "__main__":
    run("fsfast export classes", main, "export")
