"""Threads inside a run of a graph: a faster single sample, another function, as sound as any."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import fsfast
from fsfast.backends.base import side_by_side
from fsfast.cli import main
from fsfast.engine.profile import Profile

SEED = 7


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="the back end openvino needs the package openvino")
    return request.param


def test_bits_depend_on_nothing_else(backend, picture):
    """Two threads inside a run, whatever the number of threads in all; run after run."""
    with fsfast.SmoothedEncoder("demo", backend=backend, threads=1) as encoder:
        wanted = encoder.encode(picture, 5, seeds=[SEED])
    names, found = set(), []
    for threads in (1, 2, 3):
        with fsfast.SmoothedEncoder("demo", backend=backend, threads=threads, graph_threads=2) as encoder:
            assert encoder.profile.graph_threads == 2
            names.add(encoder.function_id)
            found += [encoder.encode(picture, 5, seeds=[SEED]).unit for _ in range(3)]
    assert len(names) == 1
    assert wanted.function_id not in names
    for unit in found:
        np.testing.assert_array_equal(unit, found[0])
    np.testing.assert_allclose(found[0], wanted.unit, atol=2e-5)


@pytest.fixture
def photo(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def test_a_certificate_names_them_and_is_verified_with_them(tmp_path, photo, capsys):
    files = [str(tmp_path / f"{name}.json") for name in ("two", "one")]
    certify = ["certify", "demo", photo, "--n", "40"]
    for file, more in zip(files, (["--graph-threads", "2"], []), strict=True):
        assert main([*map(str, certify), *more, "-o", file]) == 0
    two, one = (fsfast.load_certificate(file) for file in files)
    assert (two.profile.graph_threads, one.profile.graph_threads) == (2, 1)
    assert two.function_id != one.function_id
    assert main(["verify", files[0], photo]) == 0
    capsys.readouterr()
    assert main(["verify", files[0], photo, "--graph-threads", "1"]) == 1
    assert "graph_threads: 2 there, 1 here" in capsys.readouterr().out


def test_one_goes_without_saying(tmp_path, picture):
    """Certificates of older versions say nothing about it."""
    file = tmp_path / "c.json"
    with fsfast.SmoothedEncoder("demo") as encoder:
        encoder.certify(picture, 40, seeds=[1]).save(file)
    assert "graph_threads" not in json.loads(file.read_text())["profile"]
    assert fsfast.load_certificate(file).profile.graph_threads == 1


def test_names_of_functions_stay_what_they_were():
    """Without threads inside a run, the field does not count."""
    profile = Profile("onnxruntime", "1", "float32", 1, "cpu", ("encoder",), kernels=1)
    assert profile.function_id("digest") == "036847aea5cceb33300a2c71c170be686442158eda07d179db9ae2e6275f01d3"


@pytest.mark.parametrize(("threads", "inside", "runs"), [(2, 1, 2), (2, 2, 1), (5, 2, 2), (1, 4, 1)])
def test_threads_are_shared_out(threads, inside, runs):
    assert side_by_side(threads, inside) == runs


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_impossible_numbers_are_refused(number):
    with pytest.raises(ValueError, match="graph_threads"):
        fsfast.SmoothedEncoder("demo", graph_threads=number)
