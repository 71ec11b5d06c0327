"""What the tests of the networks share."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn


@pytest.fixture
def randomised() -> Callable[..., nn.Module]:
    """Give every weight a random value, zero-initialised layers and norms included; deterministic."""

    def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(module.named_parameters()):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            noise = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            parameter.data = (1 + noise if is_norm_weight else noise).to(parameter.dtype)
        return module.eval().requires_grad_(False)

    return randomise


@pytest.fixture
def assert_exports(tmp_path) -> Callable[[nn.Module, Tensor], None]:
    """Export with a dynamic batch; compare with torch at batches 1, 3, 5, and stored with real weights."""

    def check(module: nn.Module, inputs: Tensor) -> None:
        path = tmp_path / "graph.onnx"
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            try:
                program = torch.onnx.export(
                    module,
                    (inputs[:2],),
                    dynamo=True,
                    opset_version=21,
                    input_names=["x"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    verbose=False,
                )
            finally:
                logging.disable(logging.NOTSET)
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for batch in (1, 3, 5):
            (got,) = session.run(None, {"x": inputs[:batch].numpy()})
            np.testing.assert_allclose(got, module(inputs[:batch]).numpy(), rtol=0, atol=2e-5)

        # One weights file serves ONNX and torch only if no weight is renamed, transposed or copied.
        stored = {
            initialiser.name: numpy_helper.to_array(initialiser)
            for initialiser in program.model_proto.graph.initializer
        }
        for name, tensor in module.state_dict().items():
            np.testing.assert_array_equal(stored.pop(name), tensor.numpy(), err_msg=name)
        # What is left are shapes, and the scales of Resize.
        assert all(constant.size <= 8 for constant in stored.values()), list(stored)

    return check
