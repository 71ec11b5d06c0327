"""Engines from the Hugging Face Hub, against a stand-in on loopback, and against a cache in the Hub's layout."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import fsfast
from fsfast.cli import main
from fsfast.commands.serve import _named
from fsfast.engine.engine import load_engine
from fsfast.engine.hub import fetched, parse_reference
from fsfast.errors import BackendUnavailable, EngineError
from tests.integrations.hub_stand_in import StandIn

hub_package = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
REPO = "me/small"
# What lies beside an engine in a repository.
BESIDE = {
    "README.md": b"---\nlicense: mit\n---\n",
    ".gitattributes": b"*.onnx filter=lfs\n",
    "x.pkl": b"\x80\x04N.",
}


def files_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of the Hub and of fsfast."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("FSFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def hub(caches, monkeypatch, small_path):
    """The stand-in with the small engine."""
    with StandIn() as stand_in:
        reach(monkeypatch, stand_in.url)
        stand_in.put(REPO, files_of(small_path) | BESIDE)
        yield stand_in


def reach(monkeypatch, url):
    """What HF_ENDPOINT does to a process that starts with it."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def pinned(small):
    return f"hf://{REPO}#{small.engine_digest}"


def test_an_engine_is_fetched_and_serves(hub, small, small_path, photograph):
    commit = hub.repos[REPO]["main"]
    with pytest.warns(UserWarning, match=f"this one is hf://{REPO}@{commit}#{small.engine_digest}"):
        encoder = fsfast.SmoothedEncoder(f"hf://{REPO}", secret=bytes(16))
    with encoder:
        out = encoder.encode(photograph)
        assert out.features.tobytes() == small.encode(photograph).features.tobytes()
        assert encoder.function_id == small.function_id
        assert encoder.engine_reference == pinned(small)
        folder = encoder.engine_path
    # Plain files, and nothing that is not the engine's was even asked for.
    assert files_of(folder) == files_of(small_path)
    assert not any(file.is_symlink() for file in folder.iterdir())
    fetched_files = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert fetched_files == set(files_of(small_path))
    assert [path.name for path in folder.parent.iterdir()] == [small.engine_digest]


def test_an_engine_that_is_pinned_is_not_asked_for_again(hub, small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = fetched(pinned(small))
        asked = len(hub.asked)
        assert fetched(f"hf://{REPO}@anything#{small.engine_digest}") == folder
        with fsfast.SmoothedEncoder(pinned(small)) as encoder, pickle.loads(pickle.dumps(encoder)) as again:
            assert again.engine_digest == small.engine_digest
    assert len(hub.asked) == asked


def test_revisions_have_engines_of_their_own(hub, small, demo_path):
    commit = hub.put(REPO, files_of(demo_path), branch="v2/large")
    for revision in ("v2/large", commit):
        with pytest.warns(UserWarning, match=f"@{commit}#"):
            assert load_engine(f"hf://{REPO}@{revision}").manifest.name == "demo"
    assert load_engine(pinned(small)).manifest.name == "small"


def test_another_digest_is_refused_before_weights_are_fetched(hub, demo):
    wanted = demo.engine_digest
    with pytest.raises(EngineError, match=rf"wanted the engine with digest {wanted}, hf://{REPO}@\w+ has"):
        fsfast.SmoothedEncoder(f"hf://{REPO}#{wanted}")
    assert not any("safetensors" in line for line in hub.asked)
    assert list((Path(os.environ["FSFAST_CACHE"]) / "hub").iterdir()) == []


@pytest.mark.parametrize("name", ["weights.float32.safetensors", "encoder.float32.onnx", "engine.sha256"])
def test_a_file_that_is_not_the_manifests_is_refused(hub, small_path, small, name):
    files = files_of(small_path)
    hub.put(REPO, files | {name: files[name][:-1] + b"?"})
    with pytest.raises(
        EngineError, match=rf"{name} (is not the file that|was altered)|or {name} was altered"
    ):
        fetched(pinned(small))
    assert list((Path(os.environ["FSFAST_CACHE"]) / "hub").iterdir()) == []
    hub.put(REPO, files)
    fetched(pinned(small))


def test_what_cannot_be_fetched_is_named_with_the_remedy(hub, monkeypatch):
    hub.put("me/empty", BESIDE)
    hub.put(
        "me/half",
        {name: hub.commits[hub.repos[REPO]["main"]][name] for name in ("engine.json", "engine.sha256")},
    )
    hub.put("me/gated", BESIDE)
    hub.restricted.add("me/gated")
    for reference, why in (
        ("me/none", r"no such repository, or it is private; .*hf auth login"),
        (f"{REPO}@v9", r"no such revision; name a branch, tag or commit"),
        ("me/empty", r"no engine\.json, so it holds no engine of fsfast"),
        ("me/half", r"has no \S+, so it holds no engine of fsfast, or not all of it"),
        ("me/gated", r"access to it is restricted; ask for it on its page"),
    ):
        with pytest.raises(EngineError, match=rf"hf://{reference}.* cannot be fetched: .*{why}"):
            fsfast.SmoothedEncoder(f"hf://{reference}")


def test_wrong_references_are_refused(caches):
    digest = "0" * 64
    assert vars(parse_reference(f"hf://me/small@refs/pr/2#{digest}")) == {
        "repo": REPO,
        "revision": "refs/pr/2",
        "digest": digest,
    }
    for text in (
        "hf://small",
        f"hf://{REPO}#12ab",
        f"hf://{REPO}/engine.json",
        f"hf://{REPO}@",
        f"hf://{REPO}#{digest}\n",
    ):
        with pytest.raises(EngineError, match=r"wanted hf://owner/name\[@revision\]\[#digest\]"):
            fsfast.SmoothedEncoder(text)


def in_the_hubs_layout(cache, files, commit="c" * 40):
    """What huggingface_hub leaves: blobs by their hashes, a reference, and links in the snapshot."""
    repo = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    for number, (name, content) in enumerate(files.items()):
        (repo / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_offline_the_hubs_cache_serves(caches, monkeypatch, small, small_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        EngineError, match=r"HF_HUB_OFFLINE is set, and \S+ has no engine\.json of it; fetch it online"
    ):
        fetched(f"hf://{REPO}")
    snapshot = in_the_hubs_layout(caches / "hub-cache", files_of(small_path) | BESIDE)
    # An engine holds no links, so that the snapshot itself is none.
    with pytest.raises(EngineError, match=r"link|unknown file"):
        load_engine(snapshot)
    with pytest.warns(UserWarning, match=f"@{'c' * 40}#{small.engine_digest}"):
        engine = load_engine(f"hf://{REPO}")
    assert engine.digest == small.engine_digest
    weights = "weights.float32.safetensors"
    assert (engine.path / weights).samefile(snapshot / weights), "hard links need no room"


def test_what_cannot_be_reached_is_served_from_the_cache(hub, monkeypatch, small):
    fetched(pinned(small))
    reach(monkeypatch, "http://127.0.0.1:9")
    # huggingface_hub tries again after growing pauses.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.warns(UserWarning, match="may become another engine"):
        fetched(f"hf://{REPO}")
    with pytest.raises(
        EngineError, match=r"127\.0\.0\.1:9 cannot be reached, and the cache has no engine\.json"
    ):
        fetched("hf://me/other")


def test_files_are_copied_where_there_are_no_links(hub, monkeypatch, small, small_path):
    def refused(*_: object) -> None:
        raise PermissionError("another file system")

    monkeypatch.setattr(os, "link", refused)
    assert files_of(fetched(pinned(small))) == files_of(small_path)


def test_a_folder_of_the_cache_that_was_exchanged_is_refused(hub, small, demo_path):
    folder = fetched(pinned(small))
    shutil.rmtree(folder)
    shutil.copytree(demo_path, folder)
    with pytest.raises(EngineError, match=f"wanted the engine with digest {small.engine_digest}"):
        fsfast.SmoothedEncoder(pinned(small))


def test_without_the_package_the_command_that_installs_it_is_named(caches, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendUnavailable, match=r"need huggingface_hub .*install it with: .*\[hub\]"):
        fsfast.SmoothedEncoder(f"hf://{REPO}")


def test_a_server_names_an_engine_by_its_repository(small):
    assert _named([pinned(small), "a=hf://me/b@c"]) == {"small": pinned(small), "a": "hf://me/b@c"}


def test_pushed_it_opens_everywhere(hub, demo, demo_path, tmp_path):
    """The whole way of a user, by the command line and the environment variables of huggingface_hub."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_of_the_stand_in",
        "PYTHONPATH": str(Path(fsfast.__file__).parents[1]),
    }

    def run(*words):
        command = [sys.executable, "-m", "fsfast", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    pushed = run("push", "demo", "me/demo")
    assert pushed.returncode == 0, pushed.stderr
    reference = pushed.stdout.split()[-1]
    assert reference == f"hf://me/demo@{hub.repos['me/demo']['main']}#{demo.engine_digest}"
    held = hub.commits[hub.repos["me/demo"]["main"]]
    readme = held.pop("README.md").decode()
    assert held == files_of(demo_path)
    assert f'SmoothedEncoder("hf://me/demo#{demo.engine_digest}")' in readme
    shown = run("info", reference, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["digest"] == demo.engine_digest
    assert "Traceback" not in shown.stderr
    # The wrong one is named, and no traceback shown.
    wrong = run("info", reference.replace(demo.engine_digest, "0" * 64))
    assert wrong.returncode == 2
    assert "fsfast info: wanted the engine with digest 000" in wrong.stderr


def test_the_card_is_what_the_hub_reads(caches, demo_path, tmp_path, capsys):
    """By huggingface_hub's own reader; the numbers are those of results.json, and the engine stays as it is."""
    folder = tmp_path / "out"
    assert main(["push", "demo", "me/demo", "--dry-run", str(folder)]) == 0
    assert "nothing was pushed" in capsys.readouterr().out
    card = hub_package.ModelCard.load(folder / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.model_name) == ("apache-2.0", "fsfast", "demo")
    assert {"certified-robustness", "randomized-smoothing"} <= set(data.tags)
    measured = json.loads((demo_path / "results.json").read_text())
    assert [result.metric_value for result in data.eval_results] == [
        measured["rows"][-1]["accuracy"],
        measured["rows"][-1]["attack_accuracy"],
        measured["adaptive"]["accuracy"],
    ]
    assert (demo_path / "model-card.md").read_text().strip() in card.text
    (folder / "README.md").unlink()
    assert files_of(folder) == files_of(demo_path)
    assert main(["push", "demo", "me/demo", "--dry-run", str(folder)]) == 2
    assert "File exists" in capsys.readouterr().err


def test_a_card_without_results_says_what_it_knows(caches, small_path, tmp_path):
    assert main(["push", str(small_path), REPO, "--dry-run", str(tmp_path / "out")]) == 0
    data = hub_package.ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.eval_results is None
    assert "random-weights" in data.tags
    assert np.isin(["license", "tags"], list(data.to_dict())).all()
