"""A faster precision is named in one line, by measurement or by the processor's instructions; never chosen."""

from __future__ import annotations

import logging

import pytest

import fsfast
from fsfast import machine
from fsfast.cli import main
from fsfast.engine.engine import load_engine
from fsfast.runtime import advice
from fsfast.runtime.advice import Speed, faster_precision, remember


@pytest.fixture
def engine(reduced_path, tmp_path, monkeypatch):
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path))
    return load_engine(reduced_path)


def with_extensions(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(machine, "is_x86", lambda: True)
    monkeypatch.setattr(machine, "extensions", lambda: frozenset(names))


def test_what_the_processor_has_instructions_for(monkeypatch):
    for names, wanted in (
        (("avx2",), ()),
        (("avx2", "avx_vnni"), ("int8",)),
        (("avx512_vnni",), ("int8",)),
        (("avx512_vnni", "avx512_bf16"), ("bfloat16", "int8", "int8+bfloat16")),
        (("avx512_vnni", "amx_bf16"), ("bfloat16", "int8", "int8+bfloat16")),
    ):
        with_extensions(monkeypatch, *names)
        assert advice.native_precisions() == wanted


def test_without_a_measurement_the_processor_decides(engine, monkeypatch):
    with_extensions(monkeypatch, "avx2")
    assert faster_precision(engine, "float32") is None
    with_extensions(monkeypatch, "avx2", "avx_vnni")
    assert "has instructions for int8, which this engine has, too" in str(faster_precision(engine, "float32"))
    assert faster_precision(engine, "int8") is None
    assert faster_precision(load_engine("demo"), "float32") is None


def test_a_measurement_decides_before_the_processor(engine, monkeypatch):
    with_extensions(monkeypatch, "avx2", "avx_vnni")
    fast = Speed("openvino", 2.0, 0.9995)
    remember(engine, {"float32": Speed("onnxruntime", 5.0, 1.0), "int8": fast})
    line = str(faster_precision(engine, "float32"))
    assert (
        "precision='int8' with backend='openvino' was 2.5 times as fast here, at a cosine of 0.9995" in line
    )
    assert faster_precision(engine, "int8") is None
    # Measured and not worth it: nothing is offered although there are instructions for it.
    for slow in (Speed("openvino", 4.9, 0.9995), Speed("openvino", 2.0, 0.99)):
        remember(engine, {"float32": Speed("onnxruntime", 5.0, 1.0), "int8": slow})
        assert faster_precision(engine, "float32") is None


def test_one_line_is_logged_and_the_default_stays(engine, caplog):
    remember(engine, {"float32": Speed("onnxruntime", 5.0, 1.0), "int8": Speed("onnxruntime", 2.0, 0.9999)})
    with caplog.at_level(logging.INFO, "fsfast"), fsfast.SmoothedEncoder(engine.path) as encoder:
        assert encoder.profile.precision == "float32"
    assert sum("2.5 times as fast here" in record.message for record in caplog.records) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "fsfast"), fsfast.SmoothedEncoder(engine.path, precision="float32"):
        pass
    assert "times as fast" not in caplog.text


def test_bench_remembers_what_it_measured(engine):
    assert main(["bench", str(engine.path), "--runs", "1", "--n0", "1"]) == 0
    known = advice._remembered(engine)
    assert {"float32", "int8"} <= set(known)
    assert known["float32"].cosine == pytest.approx(1.0, abs=1e-6)
