"""The commands that messages name work where they are printed; a clone that was not built does not hide silently."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from fsfast import installation
from fsfast.commands.export import NEEDS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As in site-packages: nothing of a clone beside the package."""
    monkeypatch.setattr(installation, "_ROOT", tmp_path)


def test_a_clone_is_installed_again_with_the_extra():
    assert installation.clone() == ROOT
    command = shlex.split(installation.pip_install_extras("export", "tensorrt"))
    assert command[-3:] == ["install", "-e", f"{ROOT}[export,tensorrt]"]


def test_an_installed_copy_names_what_the_extra_requires(installed):
    """By the metadata; no index needs to have fsfast."""
    (openvino,) = shlex.split(installation.pip_install_extras("openvino").partition(" install ")[2])
    assert re.fullmatch(r"openvino>=\d{4}\.\d", openvino)
    export = shlex.split(installation.pip_install_extras("export", "tensorrt").partition(" install ")[2])
    names = [re.match(r"[\w-]+", word)[0] for word in export]
    assert {*NEEDS, "tensorrt_rtx_cu13_libs"} <= {name.replace("-", "_") for name in names}
    assert len(names) == len(set(names))
    assert not {"fsfast", "numpy", "openvino", "pytest"} & set(names)
    assert ("tomli" in names) == ("tomli" in NEEDS) == (sys.version_info < (3, 11))


def test_an_installed_copy_without_metadata(installed, monkeypatch):
    def unknown(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", unknown)
    assert "extra [plot]" in installation.pip_install_extras("plot")


def test_pip_is_the_one_of_this_python(monkeypatch, tmp_path):
    pip, python = tmp_path / "pip", tmp_path / "python"
    pip.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installation.pip("install", "a>=1") == "pip install 'a>=1'"
    monkeypatch.setenv("PATH", "/nowhere")
    assert installation.pip("install", "b") == f"{python} -m pip install b"
    # As `uv venv` makes an environment.
    monkeypatch.setattr(installation.PathFinder, "find_spec", lambda name: None)
    assert installation.pip("install", "c") == f"uv pip install --python {python} c"


def test_a_command_that_is_named_leaves_setuptools_as_it_is():
    """It gives up its distutils in a process that looks for pip as pip does; compilers of torch need it."""
    script = "from fsfast import installation; installation.pip('install', 'x'); import setuptools"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_message_wants_fsfast_from_an_index():
    """Until an index has it; a name that is not there is anybody's to take."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [
        path for wing in ("fsfast", "export", "train", "study") for path in (ROOT / wing).rglob("*.py")
    ]
    for path in (*pages, *sources):
        found = re.search(r"pip install[^.\n]*['\" ]fsfast\b", path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found[0]}"


def test_an_installed_copy_whose_extension_does_not_load(installed):
    message = str(installation.extension_missing(ImportError("GLIBC_2.99")))
    assert "GLIBC_2.99" in message
    assert "in a clone of the sources" in message


@pytest.fixture
def unbuilt(tmp_path):
    """A clone whose kernels are not built."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "fsfast", folder / "fsfast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (folder / "csrc").mkdir()
    return folder


def test_an_unbuilt_clone_says_what_it_hides(unbuilt, tmp_path):
    other = tmp_path / "other"
    (other / "fsfast").mkdir(parents=True)
    (other / "fsfast" / "__init__.py").touch()
    code = f"import sys; sys.path.insert(1, {str(other)!r}); from fsfast.kernels import cpu"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=unbuilt, capture_output=True, text=True, check=False
    )
    for part in (
        f"the clone in {unbuilt} is not built for this Python, and hides the fsfast in {other}",
        "start Python in another folder",
        f"install -e {unbuilt}",
    ):
        assert part in done.stderr


def test_a_clone_that_hides_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path)])
    assert installation.hidden() is None
    assert "hides" not in str(installation.extension_missing(ImportError("no module")))
