"""What the plugin's processor hands to the model, and under which names; no model runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fsfast
from fsfast.errors import EngineError, ImageError
from fsfast.integrations.vllm_plugin import ARCHITECTURE, register

pytest.importorskip("vllm", reason="make vllm has an environment for these")

from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import MultiModalDataParser

from tests.integrations.with_vllm.tiny_llava import CLIP, PROMPT, pictures


@pytest.fixture
def processor(llava, engines):
    """A function: the processor of a model with an engine."""
    # As in each of vLLM's processes; and in some of them again.
    register()
    register()

    def make(engine="smoothed", dtype="bfloat16", model=llava, embeds=False, **more):
        said = {"engine": str(engines[engine]), **more}
        config = ModelConfig(
            str(model),
            dtype=dtype,
            max_model_len=96,
            enable_mm_embeds=embeds,
            hf_overrides={"architectures": [ARCHITECTURE], "fsfast": said},
        )
        return MULTIMODAL_REGISTRY.create_processor(config)

    return make


def processed(processor, uuid=None, **kwargs):
    items = MultiModalDataParser().parse_mm_data({"image": pictures()[:1]})
    return processor(PROMPT, items, {"image": [uuid]}, kwargs)


def pixels(found):
    return found["mm_kwargs"]["image"][0]["pixel_values"].data


def test_levels_reach_a_model_in_bfloat16(processor, reference):
    handed = pixels(processed(processor()))
    assert handed.dtype == torch.uint8
    normalised = reference.inputs[0]["pixel_values"]
    wanted = fsfast.from_pixel_values(normalised, CLIP["mean"], CLIP["std"])
    np.testing.assert_array_equal(np.moveaxis(handed.numpy(), 0, -1), wanted[0])


def test_a_request_for_normalised_pixels_is_refused(processor):
    with pytest.raises(ImageError, match="wanted levels"):
        processed(processor(), images_kwargs={"do_rescale": True, "do_normalize": True})


def test_embeddings_are_refused(processor):
    """A consumer of a cache of vLLM takes them without being told to."""
    with pytest.raises(ValueError, match="wanted pictures, got embeddings"):
        processor(embeds=True).info.parse_mm_data({"image": torch.zeros(1, 16, 64)})


def test_names_in_caches_are_those_of_an_engine(processor):
    makers = [processor(), processor("clean"), processor(n0=4)]
    hashes = [processed(maker)["mm_hashes"]["image"][0] for maker in makers]
    hashes += [processed(maker, "../a client's name")["mm_hashes"]["image"][0] for maker in makers]
    assert len(set(hashes)) == len(hashes)
    assert [name.split("-")[:3] for name in hashes[:3]] == [
        ["fsfast", "s0.25", "n3"],
        ["fsfast", "s0.00022", "n3"],
        ["fsfast", "s0.25", "n4"],
    ]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for name in hashes)


def test_the_profile_run_has_nothing_to_sample(processor):
    (dummy,) = processor().get_dummy_mm_inputs({"image": 1})["mm_kwargs"]["image"]
    assert list(dummy) == ["image_embeds"]
    assert dummy["image_embeds"].data.shape == (16, 64)


def test_another_normalisation_is_refused(processor, llava, tmp_path):
    copy = tmp_path / "llava"
    copy.mkdir()
    for file in llava.iterdir():
        content = file.read_bytes()
        if file.name == "processor_config.json":
            content = content.replace(b"0.48145466", b"0.5")
        (copy / file.name).write_bytes(content)
    with pytest.raises(EngineError, match=r"mean: wanted \[0.5, "):
        processor(model=copy)
