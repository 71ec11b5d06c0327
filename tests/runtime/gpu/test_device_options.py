"""What device="cuda" refuses, and what it says; memory that is planned."""

import contextlib

import numpy as np
import pytest
import torch

import fsfast
from fsfast.backends.device import place as places
from fsfast.backends.device.arithmetic import fixed_arithmetic
from fsfast.backends.device.memory import MemoryPlan
from fsfast.errors import BackendUnavailable, EngineError
from fsfast.runtime.gpu import pipeline as pipelines

GB = 10**9


def test_without_a_gpu_one_line_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        BackendUnavailable, match=r"wanted device 'cuda': torch .*(without CUDA|no CUDA GPU)"
    ) as said:
        fsfast.SmoothedEncoder("demo", device="cuda")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("cuda", "gpus", "triton", "says"),
    [
        (None, 0, True, "built without CUDA"),
        ("13.0", 0, True, "nvidia-smi"),
        ("13.0", 1, False, "Triton is not installed"),
    ],
)
def test_problems_are_told_apart(monkeypatch, cuda, gpus, triton, says):
    def installed(name):
        if not triton:
            raise places.PackageNotFoundError
        return "3.6"

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(places, "installed", installed)
    (problem,) = places.problems()
    assert says in problem


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("cuda:7", BackendUnavailable, "cuda:1"),
        ("cuda:x", ValueError, "'cuda:0'"),
        ("cudax", ValueError, "cuda"),
    ],
)
def test_gpus_have_numbers(monkeypatch, name, error, says):
    monkeypatch.setattr(places, "problems", lambda: [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert places.cuda_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(error, match=says):
        places.cuda_device(name)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"backend": "openvino"}, BackendUnavailable, "torch, torch-compile, tensorrt"),
        ({"backend": "onnxruntime"}, BackendUnavailable, "no CUDAExecutionProvider.*onnxruntime-gpu"),
        ({"graph_threads": 2}, ValueError, "graph_threads"),
        ({"precision": "int8"}, ValueError, "bfloat16"),
        ({"micro_batch": 0}, ValueError, "micro_batch"),
        ({"micro_batch": 5000}, ValueError, "1…1024"),
        ({"stages": ("mapper",)}, ValueError, "encoder"),
        ({"secret": b"short"}, ValueError, "secret"),
    ],
)
def test_options_are_checked(opened, options, error, says):
    with pytest.raises(error, match=says):
        opened(**options)


def test_another_option_is_another_function(opened):
    names = [opened(**o).function_id for o in ({}, {"precision": "bfloat16"}, {"micro_batch": 2})]
    assert len(set(names)) == 3
    assert opened().function_id == names[0]


def test_compiling_is_another_back_end(opened, monkeypatch, picture):
    """Every network is compiled for one shape; torch's compiler itself needs a GPU to be worth its minutes."""
    seen = []

    def compile_(module, **options):
        seen.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    encoder = opened(backend="torch-compile")
    assert [(options.pop("dynamic"), options["options"]["deterministic"]) for options in seen] == [
        (False, True)
    ] * 3
    # Names that this torch knows.
    torch._inductor.config.patch(seen[0]["options"])
    assert str(encoder.choice) == "torch-compile, asked for"
    assert encoder.profile.backend == "torch-compile"
    assert encoder.encode_tensors is not None
    # The plain networks are compiled, which differ by rounding from those of the other back end.
    wanted = opened().encode(picture, 2, seeds=[1]).features
    np.testing.assert_allclose(encoder.encode(picture, 2, seeds=[1]).features, wanted, rtol=0, atol=1e-4)


def test_a_damaged_network_fails_the_self_test(opened, monkeypatch):
    from fsfast.backends import torch as modules_of

    real = modules_of.load_folded

    def damaged(*arguments):
        modules = real(*arguments)
        modules["mapper"].blocks[0].gain.data += 1
        return modules

    monkeypatch.setattr(modules_of, "load_folded", damaged)
    # No other test has this micro-batch: a passed test is remembered.
    with pytest.raises(EngineError, match=r"mapper .* deviates"):
        opened(micro_batch=6, precision="float16")


def _settings():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.conv.fp32_precision, cudnn.benchmark, matmul.fp32_precision


def test_settings_of_torch_are_put_back():
    before = _settings()
    with contextlib.suppress(KeyError), fixed_arithmetic():
        assert _settings() == ("none", False, "none")
        # What torch's compilers ask for: it refuses to answer where settings contradict each other.
        assert torch.backends.cudnn.allow_tf32 is False
        raise KeyError
    assert _settings() == before
    assert torch.backends.cudnn.allow_tf32 is True


def test_the_library_of_matrix_products_is_fixed(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.backends.cuda, "preferred_blas_library", lambda *name: asked.append(name) or "mine"
    )
    with fixed_arithmetic():
        assert asked == [(), ("cublas",)]
    assert asked[2:] == [("mine",)]


def test_halves_are_summed_in_float32():
    matmul = torch.backends.cuda.matmul
    matmul.allow_fp16_accumulation = True
    try:
        with fixed_arithmetic():
            assert not matmul.allow_fp16_accumulation
        assert matmul.allow_fp16_accumulation
    finally:
        matmul.allow_fp16_accumulation = False


def test_tf32_that_the_caller_asked_for_is_off_meanwhile():
    torch.backends.fp32_precision = "tf32"
    try:
        with fixed_arithmetic():
            assert _settings() == ("none", False, "none")
        assert _settings()[2] == "tf32"
    finally:
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_threads_that_overlap_put_the_settings_back():
    """The one that came first leaves first; the other must neither lose the settings nor keep them."""
    before, first, second = _settings(), fixed_arithmetic(), fixed_arithmetic()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert _settings() == ("none", False, "none")
    second.__exit__(None, None, None)
    assert _settings() == before


def test_memory_grows_by_rows():
    """Two runs give the line; the reserve is 5 %."""
    plan = MemoryPlan.measured(lambda rows: (3 + 2 * rows) * GB, GB, 42 * GB, "a GPU")
    assert (plan.fixed, plan.per_row) == (4 * GB, 2 * GB)
    assert plan.most_rows() == 18
    plan.check(18)
    with pytest.raises(
        BackendUnavailable, match=r"19 rows.* 44.1 GB; a GPU has 42 GB .*micro_batch=18 would fit"
    ):
        plan.check(19)


def test_memory_for_not_even_one_row():
    plan = MemoryPlan.measured(lambda rows: rows * GB, 0, GB // 2, "a GPU")
    with pytest.raises(BackendUnavailable, match="not even one row"):
        plan.check(16)


def test_the_lack_of_memory_is_answered_with_what_would_fit(opened, monkeypatch, picture):
    """While serving, when others took memory that was free before."""
    encoder = opened()
    pipeline = encoder._function.pipeline
    pipeline.plan = MemoryPlan(0, GB, 3 * GB, "a GPU")
    real = pipelines.noisy_batch

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipelines, "noisy_batch", full)
    with pytest.raises(BackendUnavailable, match="micro_batch=2 would fit"):
        encoder.encode(picture, 2)
    monkeypatch.setattr(pipelines, "noisy_batch", real)
    assert encoder.encode(picture, 2).n0 == 2


def test_a_plan_is_made_before_anything_is_captured(place, opened):
    encoder = opened()
    plan = encoder._function.pipeline.plan
    if place.type == "cpu":
        assert plan is None
    else:
        assert plan.needed(4) < plan.available
        assert plan.per_row > 0


def test_networks_that_change_when_captured_are_refused(opened, monkeypatch):
    calls = iter(range(100))
    real = pipelines.Replay.__call__
    monkeypatch.setattr(pipelines.Replay, "__call__", lambda self: real(self) + next(calls))
    with pytest.raises(EngineError, match="captured"):
        opened()
