"""Channels made alike: the same outputs in float32, and far more levels for the small channels in 8 bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.calibration import activation_ranges, run_all
from export.equalise import equalise, normalisations, watch_channels
from export.qdq import quantise
from export.weights import in_memory
from tests.engine.onnx_graphs import with_external_weights

CHANNELS = 24
RANDOM = np.random.default_rng(0)


def normalised_product(
    transposed: bool = True, *extra: onnx.NodeProto
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """LayerNormalization → Gemm, two channels a hundred times larger, as trained transformers have them."""
    gamma = np.ones(CHANNELS, np.float32)
    gamma[[3, 17]] = 100.0
    weight = RANDOM.standard_normal((8, CHANNELS)).astype(np.float32) / gamma
    values = {
        "gamma": gamma,
        "beta": (0.1 * gamma).astype(np.float32),
        "w": weight if transposed else np.ascontiguousarray(weight.T),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], axis=-1),
        helper.make_node("Gemm", ["n", "w"], ["y"], transB=int(transposed)),
        *extra,
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["M", size])
        for name, size in (("x", CHANNELS), ("y", 8))
    ]
    return with_external_weights(nodes, ends, values), values


def outputs(exported, inputs: np.ndarray) -> np.ndarray:
    graph, weights = in_memory(exported)
    return next(iter(run_all(onnx.load_from_string(graph), weights, [inputs])))[0]


@pytest.mark.parametrize("transposed", [True, False])
def test_the_same_outputs_and_a_tenth_of_the_error_in_8_bits(transposed):
    model, values = normalised_product(transposed)
    plain = quantise(model, values, {})
    x = RANDOM.standard_normal((64, CHANNELS)).astype(np.float32)
    wanted = outputs(plain, x)
    graph, weights = in_memory(plain)
    watched = watch_channels(onnx.load_from_string(graph), ["n"], [CHANNELS])
    ((_, largest),) = run_all(watched, weights, [x])
    centred = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(largest, np.abs(centred * values["gamma"] + values["beta"]).max(0), rtol=1e-4)

    alike = equalise(model, values, {"n": largest})
    np.testing.assert_allclose(outputs(alike, x), wanted, atol=1e-4)

    def error(of, stored):
        content = in_memory(of)
        ranges, _ = activation_ranges(onnx.load_from_string(content[0]), content[1], ["n"], [x])
        return np.abs(outputs(quantise(of.model, stored, ranges), x) - wanted).max()

    assert error(alike, alike.weights) < 0.1 * error(plain, values)


def test_a_normalisation_that_others_read_stays():
    """A residual branch would see the scaled channels."""
    model, _ = normalised_product(True, helper.make_node("Relu", ["n"], ["other"]))
    assert normalisations(model) == []
    assert [item.output for item in normalisations(normalised_product()[0])] == ["n"]


def test_shared_initialisers_are_not_changed_for_others():
    """The exporter merges equal initialisers: another normalisation with the same name keeps its values."""
    model, values = normalised_product(
        True,
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["m"], axis=-1),
        helper.make_node("Relu", ["m"], ["z"]),
    )
    alike = equalise(model, values, {"n": np.full(CHANNELS, 2.0)})
    np.testing.assert_array_equal(alike.weights["gamma"], values["gamma"])
    assert "w" not in alike.weights
    assert not np.array_equal(alike.weights["n.1"], values["gamma"])
