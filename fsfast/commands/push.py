"""Put an engine on the Hugging Face Hub, with a model card in the Hub's format.

Log in before, by `hf auth login` or HF_TOKEN. The engine's own files stay as they are, byte by byte; README.md is made
of its card. The last line says how exactly this engine is opened everywhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fsfast.errors import FsfastError, brief

if TYPE_CHECKING:
    from fsfast.engine.engine import Engine


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "engine", metavar="ENGINE", help="directory of an engine, or the name of a built-in one"
    )
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository on the Hub; made where there is none")
    parser.add_argument(
        "--dry-run",
        metavar="FOLDER",
        type=Path,
        help="write what would be pushed to a new folder, and push nothing",
    )
    parser.add_argument("--private", action="store_true", help="a repository that is made is private")


def run(args: argparse.Namespace) -> int:
    """Push an engine, or write what would be pushed."""
    from fsfast.engine.engine import load_engine
    from fsfast.engine.hub import SCHEME, parse_reference
    from fsfast.report.hub_card import hub_card

    repo = parse_reference(f"{SCHEME}{args.repo}").repo
    engine = load_engine(args.engine)
    card = hub_card(engine, repo)
    if args.dry_run is not None:
        args.dry_run.mkdir()
        _write(engine, card, args.dry_run)
        print(f"{args.dry_run}: {len(os.listdir(args.dry_run))} files, nothing was pushed")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        _write(engine, card, Path(folder))
        commit = _push(engine, repo, folder, args.private)
    print(f"{SCHEME}{repo}@{commit}#{engine.digest}")
    return 0


def _write(engine: Engine, card: str, folder: Path) -> None:
    """Write the engine's own files and the card, into an empty folder."""
    from fsfast.engine.seal import MANIFEST, SEAL

    for name in (MANIFEST, SEAL, *engine.manifest.files):
        shutil.copyfile(engine.path / name, folder / name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _push(engine: Engine, repo: str, folder: str, private: bool) -> str:
    """Upload a folder and return the commit; raises FsfastError where the Hub refuses."""
    from fsfast.engine.hub import hub_package

    api = hub_package().HfApi(library_name="fsfast")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        message = f"{engine.manifest.name}, engine {engine.digest}"
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    # The package's errors are of many kinds.
    except (OSError, ValueError, RuntimeError) as error:
        raise FsfastError(
            f"{repo} cannot be written: {brief(error)}; log in with `hf auth login` or HF_TOKEN, as somebody who may "
            "write there"
        ) from error
    return str(commit.oid)
