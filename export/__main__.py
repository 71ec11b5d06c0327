"""Command line: `python -m export RECIPE --out DIR`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from export.recipe import load_recipe, recipe_names
from fsfast.errors import FsfastError


def main(argv: list[str] | None = None) -> int:
    """Build the engine that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Build an engine from a recipe: ONNX graphs, weights, noise table, manifest.",
    )
    parser.add_argument("recipe", help=f"a recipe ({', '.join(recipe_names())}) or a .toml file")
    parser.add_argument("--out", help="directory to write (default: engines/<name>)")
    parser.add_argument("--force", action="store_true", help="replace an engine that stands there")
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="the right structure without training; marked everywhere",
    )
    parser.add_argument(
        "--compare", metavar="RUN", nargs="+", default=[], help="runs with other seeds, for the model card"
    )
    parser.add_argument(
        "--micro-batch", type=int, default=4, help="measure parity at this batch size too (default 4)"
    )
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe)
        if args.random_weights:
            recipe = replace(recipe, run=None)
        # torch is imported only now, so that --help and a wrong recipe answer at once.
        from export.build import build_engine

        build_engine(
            recipe,
            args.out or f"engines/{recipe.name}",
            force=args.force,
            micro_batch=args.micro_batch,
            compare=args.compare,
        )
    except ModuleNotFoundError as error:
        print(
            f"python -m export: {error}; pip install -e '.[export]', or use .venv-dev/bin/python",
            file=sys.stderr,
        )
        return 2
    except (FsfastError, ValueError, OSError) as error:
        print(f"python -m export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
