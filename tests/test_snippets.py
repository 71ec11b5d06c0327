"""The snippets of README and docs run, and the commands there exist with the options that are shown."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a page shows one after the other is one session.
PYTHON = ["README.md", "quickstart.md", "serving.md", "data-sets.md"]
NEEDS_A_GPU = ["gpu.md", "tensorrt.md"]
# Run in tests/serve/test_own_clients.py.
NEEDS_A_SERVER = ["clients.md"]
# Their hosts' own tests do what these show: tests/integrations; `make ray`.
NEEDS_A_HOST = ["ray.md", "architecture.md", *(page.name for page in PAGES if page.parent.name == "stacks")]
# Fewer samples than shown: the machinery is the same.
QUICK = [("n=1000", "n=60"), ("certify photo photo.jpg", "certify photo photo.jpg -n 60")]
# Run as they stand, with their exit codes. All others are compared with the help of their command: they need weights,
# hours, or pip.
RUN = {
    "fsfast doctor": 0,
    "fsfast certify photo photo.jpg -o certificates.jsonl": 0,
    "fsfast verify certificates.jsonl photo.jpg": 0,
    "fsfast encode photo photo.jpg -o features.safetensors": 0,
    # It names the files that are wanted, and where they are to be had.
    "fsfast export llava-1.5 --purifier adm256 --dry-run": 1,
}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands() -> list[str]:
    """Return every command of every page: without comment, environment and folder of the interpreter."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            # A pipe goes on in the next line.
            for line in re.sub(r"(\\|(?<=\|))\n", " ", block).splitlines():
                words = shlex.split(line, comments=True)
                while words and "=" in words[0] and not words[0].startswith("-"):
                    words.pop(0)
                if words:
                    found.append(" ".join([words[0].removeprefix(".venv-dev/bin/"), *words[1:]]))
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch, photograph):
    """A folder with the files that snippets name."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "photo.jpg", "a.jpg"):
        shutil.copy(photograph, name)
    for name in ("dog.png", "b.png"):
        with Image.open(photograph) as picture:
            picture.resize((90, 70)).save(name)
    Path("secret").write_bytes(os.urandom(32))
    return tmp_path


@pytest.mark.parametrize("name", PYTHON)
def test_python(name, folder, capsys):
    page = next(page for page in PAGES if page.name == name)
    session: dict[str, object] = {}
    # Others show what a line means, and are not meant to be run.
    ours = [block for block in blocks(page, "python") if "encoder." in block]
    assert ours
    for block in ours:
        for shown, quick in QUICK:
            block = block.replace(shown, quick)
        exec(compile(block, name, "exec"), session)
    session["encoder"].close()


def test_all_python_is_python():
    seen = {page.name for page in PAGES if blocks(page, "python")}
    assert seen <= {*PYTHON, *NEEDS_A_GPU, *NEEDS_A_SERVER, *NEEDS_A_HOST}
    assert seen >= {*PYTHON, *NEEDS_A_GPU, *NEEDS_A_SERVER}
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, page.name, "exec")


def test_commands_run(folder):
    """One after the other: some read what others wrote."""
    shown = commands()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line, code in RUN.items():
        assert line in shown
        for words, quick in QUICK:
            line = line.replace(words, quick)
        name, *arguments = shlex.split(line)
        module = ["-m", "fsfast"] if name == "fsfast" else []
        done = subprocess.run(
            [sys.executable, *module, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == code, f"{line}: {done.stderr}"
        assert "Traceback" not in done.stderr
    assert Path("features.safetensors").is_file()


def _help(module: str, *command: str) -> str:
    """Return what `python -m MODULE COMMAND --help` says; here, where torch is imported once."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [module, *command, "--help"])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module(module, run_name="__main__")
    assert not stopped.value.code, module
    return said.getvalue()


def test_commands_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    helps: dict[tuple[str, ...], str] = {}
    for line in commands():
        if line in RUN:
            continue
        name, *arguments = shlex.split(line)
        if name == "make":
            assert {word for word in arguments if "=" not in word} <= targets, line
        elif name.endswith(".sh"):
            assert (ROOT / name).exists(), line
        elif name in ("fsfast", "python"):
            module = (
                "fsfast"
                if name == "fsfast"
                else arguments[arguments.index("-m") + 1]
                if "-m" in arguments
                else ""
            )
            rest = arguments if name == "fsfast" else arguments[2:]
            if module in ("pytest", ""):
                assert all((ROOT / word).exists() for word in rest if word.endswith(".py")), line
                continue
            # Subcommands come first.
            own = (
                rest[:1] == ["export"] and rest[1:2] and rest[1] in ("onnx", "torch", "quantise", "tensorrt")
            )
            depth = 2 if own else 1
            command = rest[:depth] if module in ("fsfast", "train", "study") or rest[:1] == ["paper"] else []
            key = (module, *command)
            helps.setdefault(key, _help(*key))
            for option in (word for word in rest if word.startswith("-")):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[key]), f"{line}: {option}"
        else:
            # Those for curl are run in tests/serve/test_requests.py.
            assert name in ("source", "pip", "printf", "export"), line
