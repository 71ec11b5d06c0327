"""Who runs the networks under device="cuda": torch, TensorRT, ONNX Runtime; rehearsed on host memory."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the rehearsals of other back ends need onnx")
pytest.importorskip("onnxruntime", reason="the rehearsals of other back ends need onnxruntime")

from export.__main__ import main as export
from fsfast.backends import tensorrt
from fsfast.backends.device.lane import Lane
from fsfast.backends.gpu import load_backend, missing
from fsfast.backends.onnxruntime import cpu as on_host
from fsfast.backends.onnxruntime import gpu as sessions
from fsfast.backends.tensorrt import library
from fsfast.backends.torch.attention import TokenAttention, with_token_attention
from fsfast.engine.engine import load_engine
from fsfast.engine.profile import Work
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.models.unet import ADM256, FoldedUNet
from fsfast.models.unet_layers import AttentionBlock
from fsfast.runtime.gpu.options import backend_of_graphs, work_of
from fsfast.runtime.options import Options, default_micro_batch
from tests.backends.test_tensorrt import FakeLogger, write
from tests.export.onnx_files import convolutions, saved

MAPPER = Work("float32", ("mapper",))


class HostContext:
    """A TensorRT context whose network ONNX Runtime computes, on memory of the host."""

    def __init__(self, stage, calls):
        engine = load_engine("demo")
        ((_, self.variant, graph, weights),) = engine.stages("float32", [stage])
        self.session = on_host.open_session(graph, weights)
        self.stage, self.calls, self.addresses = stage, calls, {}
        self.output = engine.manifest.record["stages"][stage]["float32"]["output"]["shape"][1:]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        self.shape = shape
        return True

    def execute_async_v3(self, stream):
        self.calls.append((self.stage, self.shape, stream))
        sides = ((self.variant.input, self.shape), (self.variant.output, (self.shape[0], *self.output)))
        x, out = (self._array(self.addresses[name], shape) for name, shape in sides)
        on_host.OnnxGraph(self.session, self.variant.input, self.variant.output).run(x, out)
        return True

    @staticmethod
    def _array(address, shape):
        size = 4 * int(np.prod(shape))
        return np.frombuffer((ctypes.c_char * size).from_address(address), np.float32).reshape(shape)


@pytest.fixture
def runs(monkeypatch):
    """Every back end can be used; the list collects what TensorRT's contexts ran."""
    calls = []

    def deserialise(content):
        return SimpleNamespace(
            get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
            create_runtime_config=SimpleNamespace,
            create_execution_context=lambda config: HostContext(content.decode(), calls),
        )

    module = SimpleNamespace(
        __version__="1.9",
        ILogger=FakeLogger,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialise),
    )
    monkeypatch.setattr(library, "import_module", lambda name: module)
    monkeypatch.setattr(
        tensorrt,
        "build_apart",
        lambda engine, key, found, time_limit: lambda path: write(path, key.stage.encode()),
    )
    monkeypatch.setattr(sessions.OnnxRuntime, "problems", lambda self: [])
    return calls


@pytest.fixture
def cpu_only(place):
    if place.type != "cpu":
        pytest.skip("a rehearsal on host memory")


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt_rtx"])
def test_the_whole_function(opened, on_cpu, pictures, runs, cpu_only, name):
    encoder = opened(backend=name)
    assert str(encoder.choice) == f"{name}, asked for"
    assert encoder.profile.backend == name
    got = encoder.encode(pictures, 5, seeds=[1, 2, 3])
    wanted = on_cpu.encode(pictures, 5, seeds=[1, 2, 3])
    np.testing.assert_allclose(got.features, wanted.features, atol=1e-5 * np.abs(wanted.features).max())
    np.testing.assert_allclose(encoder.clean(pictures), on_cpu.clean(pictures), atol=1e-4)
    purified = (e.sample(pictures[0], seed=5).purified for e in (encoder, on_cpu))
    np.testing.assert_allclose(*purified, atol=1e-5)
    assert encoder.verify(encoder.certify(pictures[0], 6, seeds=[3]), pictures[0]).verdict == "same"


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory):
    """An engine whose encoder came as an ONNX graph."""
    folder = tmp_path_factory.mktemp("graph")
    file = saved(convolutions(), folder / "tower.onnx")
    colours = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    assert export(["onnx", str(file), "--out", str(folder / "engine"), *colours]) == 0
    return folder / "engine"


def test_the_default_runs_a_graph_that_torch_does_not_know(opened, runs, cpu_only, graph_path, monkeypatch):
    """By the first back end of graphs that can; torch that is asked for is refused."""
    assert str(opened().choice) == "torch, the default on a GPU"
    reason = "the default on a GPU where the encoder came as an ONNX graph"
    assert str(opened(graph_path).choice) == f"onnxruntime, {reason}"
    with pytest.raises(EngineError, match=r"came as an ONNX graph.*choose backend='onnxruntime'"):
        opened(graph_path, backend="torch")
    monkeypatch.setattr(sessions.OnnxRuntime, "problems", lambda self: ["no CUDA"])
    assert backend_of_graphs(load_engine(graph_path).manifest)[0] == "tensorrt_rtx"
    monkeypatch.setattr(tensorrt.TensorRt, "problems", lambda self: ["no library"])
    with pytest.raises(
        BackendUnavailable, match=r"tower came as an ONNX graph.*no CUDA; no library; no library"
    ):
        opened(graph_path)


def test_every_stage_runs_whole_micro_batches_on_the_lane(opened, picture, runs, cpu_only):
    encoder = opened(backend="tensorrt_rtx")
    del runs[:]
    encoder.encode(picture, 6)
    assert [call[0] for call in runs] == 2 * ["purifier", "encoder", "mapper"]
    assert {(call[1][0], call[2]) for call in runs} == {(4, encoder._function.pipeline.lane.handle)}


def test_plans_name_the_function(opened, runs, cpu_only):
    assert ", plans " in opened(backend="tensorrt_rtx").profile.backend_version


def test_only_onnxruntime_is_not_captured(opened, runs, cpu_only):
    found = {
        name: opened(backend=name)._function.pipeline._networks.stages.capturable
        for name in ("torch", "tensorrt_rtx", "onnxruntime")
    }
    assert found == {"torch": True, "tensorrt_rtx": True, "onnxruntime": False}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "onnxruntime",
            {"precision": "float16"},
            "backend='onnxruntime' on a GPU .float32.",
        ),
        ("tensorrt_rtx", {"micro_batch": 2000}, "1…1024"),
    ],
)
def test_graphs_have_the_engines_precisions_and_rows(opened, runs, cpu_only, name, options, says):
    with pytest.raises(ValueError, match=says):
        opened(backend=name, **options)


def test_sessions_of_a_gpu_are_exact_and_on_our_stream():
    """TF32 off, no algorithm chosen by a race, nothing that waits."""
    lane = SimpleNamespace(stream=object(), handle=4711, device=torch.device("cuda", 1))
    name, options = sessions.provider(lane)
    assert name == "CUDAExecutionProvider"
    assert options["user_compute_stream"] == "4711"
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_a_run_on_a_gpu_does_not_wait():
    lane = SimpleNamespace(stream=object(), device=torch.device("cuda", 0))
    stage = sessions.SessionStage(None, SimpleNamespace(input="x", output="y"), [3], lane)
    assert stage._options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_a_provider_that_does_not_start_is_no_silent_cpu(monkeypatch, demo_path):
    """ONNX Runtime leaves it out with a warning where its libraries are missing."""
    monkeypatch.setattr(sessions, "provider", lambda lane: ("CUDAExecutionProvider", {}))
    with pytest.raises(BackendUnavailable, match="cannot start its CUDAExecutionProvider here"):
        sessions.OnnxRuntime().open(load_engine(demo_path), MAPPER, Lane(torch.device("cpu")))


def test_what_onnxruntime_refuses_is_an_engine_error(demo_path):
    opened = sessions.OnnxRuntime().open(load_engine(demo_path), MAPPER, Lane(torch.device("cpu")))
    with pytest.raises(EngineError, match="onnxruntime cannot run 2 rows: "):
        opened.run["mapper"](torch.zeros((2, 64, 99)))


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    (said,) = missing("onnxruntime")
    assert "CUDAExecutionProvider" in said
    assert "pip install onnxruntime-gpu" in said
    monkeypatch.setattr(library, "import_module", lambda name: (_ for _ in ()).throw(ImportError("none")))
    for name in ("tensorrt", "tensorrt_rtx"):
        (said,) = missing(name)
        assert "pip install" in said
        assert "\n" not in said
    with pytest.raises(BackendUnavailable, match="torch-compile, tensorrt"):
        missing("magic")


@pytest.mark.parametrize(("n0", "m"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (100, 16)])
def test_rows_follow_from_n0_alone(n0, m):
    assert default_micro_batch(SimpleNamespace(n0=n0), (1, 1024)) == m


def test_the_default_micro_batch_holds_one_image(demo_path, pooled_path):
    manifest = load_engine(demo_path).manifest
    for name in ("torch", "tensorrt", "onnxruntime"):
        work = work_of(manifest, name, load_backend(name), Options())
        assert work.micro_batch == 4


def test_attention_on_tokens_computes_the_same():
    """Of the U-Net, with queries as fused kernels take them: channels side by side."""
    torch.manual_seed(0)
    block = AttentionBlock(64, 32, 32).eval()
    torch.nn.init.normal_(block.proj_out.weight)
    x = torch.randn((2, 64, 6, 10)).contiguous(memory_format=torch.channels_last)
    tokens = TokenAttention(block)
    with torch.no_grad():
        out = tokens(x)
        torch.testing.assert_close(out, block(x), atol=1e-5, rtol=1e-5)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert {part.stride(-1) for part in tokens.queries(x)} == {1}


def test_no_attention_block_is_left():
    with torch.device("meta"):
        network = with_token_attention(FoldedUNet(ADM256))
    kinds = {type(module) for module in network.modules()}
    assert TokenAttention in kinds
    assert AttentionBlock not in kinds
