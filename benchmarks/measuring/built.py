"""Engines to measure: built with random weights in temporary folders, once per run, and given all precisions."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import fsfast
from export.variants import backends_for

# Photographs and pictures of the built-in engine's test set.
IMAGES = Path(fsfast.__file__).parent / "assets"
_stack = contextlib.ExitStack()


@cache
def folder() -> Path:
    """Return a temporary folder that goes when Python ends."""
    return Path(_stack.enter_context(tempfile.TemporaryDirectory()))


def _with_precisions(plain: str, out: str, *options: str) -> str:
    """Give an engine its other precisions; the plain one goes."""
    _run("export.quantise", plain, "--images", str(IMAGES), "--out", out, *options)
    shutil.rmtree(plain)
    return out


def _run(*arguments: str) -> None:
    # In a process of its own, so that its memory is free again.
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.DEVNULL)


@cache
def demo() -> str:
    """The built-in engine with all precisions, calibrated on its own kind of pictures."""
    out = str(folder() / "demo")
    _run("export.quantise", "demo", "--images", str(IMAGES / "examples" / "demo"), "--out", out)
    return out


def _plain_vit(name: str) -> str:
    out = str(folder() / name)
    _run("export", "vit-b16-random", "--out", out, "--micro-batch", "1")
    return out


@cache
def vit_float32() -> str:
    """ViT-B/16 alone in float32."""
    return _plain_vit("vit-b16-float32")


@cache
def vit() -> str:
    """ViT-B/16 alone with all precisions."""
    return _with_precisions(_plain_vit("vit-b16-plain"), str(folder() / "vit-b16"), "--samples", "16")


def _plain_purified(name: str) -> str:
    out = str(folder() / name)
    chain = ["--purifier", "unet-light", "--mapper", "3", "--output", "tokens+ln_post"]
    _run("export", "clip-b16", "--random-weights", *chain, "--out", out, "--micro-batch", "1")
    return out


@cache
def purified_float32() -> str:
    """unet-light, ViT-B/16 and a mapper in float32."""
    return _plain_purified("purified-plain")


@cache
def purified() -> str:
    """unet-light, ViT-B/16 and a mapper with all precisions."""
    return _with_precisions(_plain_purified("purified-float32"), str(folder() / "purified"), "--samples", "8")


@cache
def adm256() -> str:
    """adm256 and ViT-L/14 in float32, bfloat16 and int8+bfloat16, the encoder in 8 bits; or what this machine can."""
    plain, out = str(folder() / "adm256-float32"), str(folder() / "adm256")
    chain = ["--purifier", "adm256", "--output", "tokens+ln_post"]
    _run("export", "clip-l14", "--random-weights", *chain, "--out", plain, "--micro-batch", "1")
    precisions = ["bfloat16", "int8+bfloat16"] if backends_for("bfloat16") else ["int8"]
    reduced = ["--precisions", *precisions, "--stages", "encoder", "--samples", "4"]
    return _with_precisions(plain, out, *reduced)
