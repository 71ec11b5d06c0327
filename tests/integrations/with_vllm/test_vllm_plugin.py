"""vLLM with an engine in the place of the vision tower, by the plugin alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest

from fsfast.engine.engine import load_engine
from fsfast.integrations.vllm import write_encoder_cache
from fsfast.integrations.vllm_plugin import ARCHITECTURE

pytest.importorskip("vllm", reason="make vllm has an environment for these")

from tests.integrations.with_vllm.answers import answers
from tests.integrations.with_vllm.tiny_llava import PROMPT, pictures


def overrides(engine, **more):
    return {"architectures": [ARCHITECTURE], "fsfast": {"engine": str(engine), **more}}


def requests(names=None):
    made = [{"prompt": PROMPT, "multi_modal_data": {"image": one}} for one in pictures()]
    for request, name in zip(made, names or (), strict=False):
        request["multi_modal_uuids"] = {"image": [name]}
    return made


def reading(folder):
    """Arguments of a server that reads its encoder cache from a folder."""
    extra = {"shared_storage_path": str(folder)}
    return {
        "ec_transfer_config": {
            "ec_connector": "ECExampleConnector",
            "ec_role": "ec_consumer",
            "ec_connector_extra_config": extra,
        }
    }


def test_without_noise_the_text_is_that_of_transformers(llava, engines, reference, tmp_path):
    arguments = {"model": str(llava), "dtype": "float32", "hf_overrides": overrides(engines["clean"])}
    assert answers(tmp_path, arguments, requests()) == reference.texts()


@pytest.fixture(scope="module")
def plain_files(embeddings, tmp_path_factory):
    """An encoder cache with what the plain tower makes of the pictures, and the names of its files."""
    folder, names = tmp_path_factory.mktemp("cache"), [f"picture-{i}" for i in range(3)]
    _, embeds = embeddings["clean"]
    with warnings.catch_warnings(action="ignore"):
        for name, one in zip(names, embeds, strict=True):
            write_encoder_cache(folder, name, one)
    return folder, names


def test_smoothed_features_reach_the_language_model(
    llava, engines, embeddings, reference, plain_files, tmp_path
):
    """Asked twice, and although the cache has plain features under the names that the client gives."""
    digest = load_engine(engines["smoothed"]).digest
    arguments = {"model": str(llava), "dtype": "float32", **reading(plain_files[0])}
    arguments["hf_overrides"] = overrides(engines["smoothed"], digest=digest, n0=3)
    wanted = reference.texts_of(embeddings["smoothed"][1])
    assert answers(tmp_path, arguments, [*requests(plain_files[1]), *requests()]) == wanted * 2


def test_files_of_the_encoder_cache_are_read(llava, embeddings, reference, plain_files, tmp_path):
    """By a server with a tower of its own, which runs it where there is no file: nothing warns of that but the docs."""
    folder, names = plain_files
    embeds = embeddings["smoothed"][1]
    with pytest.warns(UserWarning, match="without smoothing"):
        write_encoder_cache(folder, "smoothed-0", embeds[0])
    arguments = {"model": str(llava), "dtype": "float32", **reading(folder)}
    wanted = [reference.texts_of(embeds)[0], *reference.texts()[1:]]
    assert answers(tmp_path, arguments, requests(["smoothed-0", names[1], "missing"])) == wanted


REFUSALS = {
    "no engine": ({"engine": "/nowhere"}, {}, "does not exist"),
    "another digest": ({"digest": "0" * 64}, {}, "wanted the engine with digest 000"),
    "another layer": ({"engine": "last"}, {}, "layer: wanted penultimate, found tokens"),
    "no plugin": ({}, {"VLLM_PLUGINS": "another"}, "are not supported for now"),
    "no secret": ({}, {"FSFAST_SECRET": ""}, "wanted a secret in FSFAST_SECRET"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_server_does_not_start(case, llava, engines, tmp_path):
    said, environment, message = REFUSALS[case]
    said = {"engine": "smoothed"} | said
    said["engine"] = str(engines.get(said["engine"], said["engine"]))
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(llava)]
    line += ["--hf-overrides", json.dumps({"architectures": [ARCHITECTURE], "fsfast": said})]
    line += ["--enforce-eager", "--max-model-len", "96", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, **environment}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
