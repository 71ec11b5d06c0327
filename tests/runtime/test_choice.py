"""The choice of a back end: asked for, named, the only one, or the fastest; made once, and said."""

from __future__ import annotations

import pytest

import fsfast
from fsfast.engine.engine import load_engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.runtime import choice
from fsfast.runtime.choice import Choice, choose_backend, expected
from tests.forging import as_bfloat16

pytest.importorskip("openvino", reason="there is nothing to choose without the package openvino")
STAGES = ("purifier", "encoder", "mapper")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """An empty cache, and nothing named in the environment."""
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FSFAST_BACKEND")


@pytest.fixture
def measured(monkeypatch):
    """Stand in for the measurement: back end → milliseconds or an error; counts what was measured."""
    times: dict[str, float | Exception] = {"onnxruntime": 10.0, "openvino": 5.0}
    asked: list[str] = []

    def measure(engine, name, work):
        asked.append(name)
        if isinstance(times[name], Exception):
            raise times[name]
        return times[name]

    monkeypatch.setattr(choice, "measure", measure)
    return times, asked


def auto(path, precision="float32") -> Choice:
    return choose_backend(load_engine(path), "auto", Work(precision, STAGES, 1))


def test_the_fastest_is_taken_and_remembered(demo_path, measured):
    times, asked = measured
    first = auto(demo_path)
    assert (first.backend, first.milliseconds) == ("openvino", {"onnxruntime": 10.0, "openvino": 5.0})
    assert "onnxruntime 10.0, openvino 5.0" in str(first)
    # The machine's mood does not change the function that is served.
    times["openvino"] = 99.0
    again = auto(demo_path)
    assert (again.backend, again.milliseconds) == (first.backend, first.milliseconds)
    assert asked == ["onnxruntime", "openvino"]
    # Another micro-batch is another measurement.
    assert choose_backend(load_engine(demo_path), "auto", Work("float32", STAGES, 2)).backend == "onnxruntime"


def test_a_near_tie_goes_to_the_first(demo_path, measured):
    measured[0]["openvino"] = 9.8
    assert auto(demo_path).backend == "onnxruntime"


def test_a_choice_that_was_damaged_is_made_again(demo_path, measured, tmp_path):
    auto(demo_path)
    (file,) = (tmp_path / "cache" / "choices").iterdir()
    for content in (b"", b"[]", b'{"backend": "magic", "milliseconds": {}}', b'{"backend": "openvino"}'):
        file.write_bytes(content)
        assert auto(demo_path).backend == "openvino"
    assert len(measured[1]) == 10


def test_what_is_asked_for_or_named_is_not_measured(demo_path, measured, monkeypatch):
    assert (
        choose_backend(load_engine(demo_path), "onnxruntime", Work("float32", STAGES, 1)).reason
        == "asked for"
    )
    monkeypatch.setenv("FSFAST_BACKEND", "onnxruntime")
    assert auto(demo_path).backend == "onnxruntime"
    assert measured[1] == []


def test_the_only_one_that_can(engine, measured, monkeypatch):
    as_bfloat16(engine)
    from fsfast.backends import openvino

    monkeypatch.setattr(openvino.OpenVino, "arithmetics", lambda self: ("float32", "bfloat16"))
    assert auto(engine, "bfloat16").backend == "openvino"
    assert "the only back end here" in expected(load_engine(engine), "bfloat16")
    monkeypatch.setattr(openvino.OpenVino, "arithmetics", lambda self: ("float32",))
    with pytest.raises(
        BackendUnavailable, match=r"no back end can run bfloat16 here: .*onnxruntime.*openvino"
    ):
        auto(engine, "bfloat16")
    assert measured[1] == []


def test_without_openvino(demo_path, measured, monkeypatch):
    monkeypatch.setattr(choice, "installed", lambda: {"onnxruntime": "1.0"})
    assert auto(demo_path).backend == "onnxruntime"
    assert measured[1] == []


def test_one_that_fails_the_self_test_is_left_out(demo_path, measured, caplog):
    measured[0]["openvino"] = EngineError("self-test failed: encoder")
    assert auto(demo_path).backend == "onnxruntime"
    assert "openvino is left out: self-test failed" in caplog.text
    measured[0]["onnxruntime"] = EngineError("self-test failed: purifier")
    with pytest.raises(EngineError, match="purifier"):
        choose_backend(load_engine(demo_path), "auto", Work("float32", STAGES, 2))


def test_a_cache_that_cannot_be_written(demo_path, measured, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path / "file"))
    assert auto(demo_path).backend == "openvino"
    assert "cannot be cached" in caplog.text


def test_an_encoder_says_what_was_chosen(caplog, picture):
    """The real measurement, on the smallest set of stages."""
    assert "not measured yet" in expected(load_engine("demo"), "float32")
    with caplog.at_level("INFO", "fsfast"), fsfast.SmoothedEncoder("demo", stages=("encoder",)) as encoder:
        assert encoder.choice.backend == encoder.profile.backend
        assert set(encoder.choice.milliseconds) == set(choice.installed())
        assert all(ms > 0 for ms in encoder.choice.milliseconds.values())
        assert f"back end {encoder.choice.backend}, the fastest" in caplog.text
        assert encoder.encode(picture, 1).features.any()
    with fsfast.SmoothedEncoder("demo", stages=("encoder",)) as again:
        assert again.choice.reason == "the fastest when it was measured here"
