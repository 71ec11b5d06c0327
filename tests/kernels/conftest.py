"""Where the GPU kernels are tested: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch

_REPORT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> list[str]:
    """Text for the end of pytest's output, whether tests pass or not."""
    return request.config.stash.setdefault(_REPORT, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests reported."""
    for text in terminalreporter.config.stash.get(_REPORT, []):
        terminalreporter.write_line(text)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(scope="session", autouse=True)
def _interpreter_takes_loop_bounds() -> None:
    """Triton 3.6 makes numbers of arrays of one element as NumPy 2.4 no longer allows; Triton 3.7 does it like this."""
    if not (_interpreted() and find_spec("triton") and version("triton").startswith("3.6.")):
        return
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched


@pytest.fixture
def gpu() -> str:
    """The device of tests that only a GPU can run."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    pytest.importorskip("triton", reason="Triton is not installed")
    return "cuda"


@pytest.fixture
def device() -> str:
    """The device of a kernel's tests: the same tests run on both."""
    pytest.importorskip("triton", reason="Triton is not installed")
    if _interpreted():
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU; TRITON_INTERPRET=1 pytest -m triton runs it in the interpreter")
    return "cuda"
