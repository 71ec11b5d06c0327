"""The paper's latency study (Table S.8) at the scale of the machine: seconds per image against n0.

On the CPU: an engine. On a GPU also LLaVA-1.5-7B's shapes behind the encoder; the paper's seconds are in `extra_info`.
"""

from __future__ import annotations

import pytest
import torch

import fsfast
from benchmarks.cpu.serving import N0, picture
from benchmarks.gpu.device.encode import Study
from benchmarks.gpu.device.llava import PURIFIERS, LanguageModel, encoded, paper_seconds
from benchmarks.gpu.device.networks import case_of, function_of, random_modules
from benchmarks.gpu.device.place import Place
from benchmarks.scale import chosen


@pytest.fixture(scope="module")
def encoder(request):
    with fsfast.SmoothedEncoder(request.config.getoption("--engine")) as opened:
        yield opened


@pytest.mark.parametrize("n0", N0)
def test_latency(benchmark, encoder, n0):
    benchmark.extra_info.update(
        engine=encoder.manifest.name, threads=encoder.threads, n0=n0, scale="an engine on the CPU"
    )
    out = benchmark(encoder.encode, picture(encoder), n0)
    assert out.n0 == n0


@pytest.fixture(scope="module")
def language_model():
    if not (scale := chosen()).language_model:
        pytest.skip(scale.text)
    place = Place.chosen(rehearse=False)
    return place, LanguageModel(place, case_of(PURIFIERS[0], place).encoder.width)


@pytest.fixture(scope="module", params=PURIFIERS)
def purified(request, language_model):
    place, _ = language_model
    case = case_of(request.param, place)
    return case, random_modules(case, place.device), Study.of(place, case).item.pixels


@pytest.mark.parametrize("n0", N0)
def test_table_s8(benchmark, language_model, purified, n0):
    (place, model), (case, modules, pixels) = language_model, purified
    images = torch.from_numpy(pixels).to(place.device)[None]
    function = function_of(case, modules, place, "bfloat16", n0)

    def answer():
        words = model.answer(encoded(function, images, n0))
        place.wait()
        return words

    paper = paper_seconds()[case.name, n0]
    benchmark.extra_info.update(purifier=case.name, n0=n0, paper_seconds=paper, scale=chosen().text)
    assert len(benchmark(answer)) > 0
    function.pipeline.close()
