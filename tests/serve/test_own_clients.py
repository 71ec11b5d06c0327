"""fsfast's own clients, and `fsfast encode --server`, against a server."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import fsfast
from fsfast.cli import main

pytest.importorskip("httpx", reason="the client needs httpx")


@pytest.fixture(scope="module")
def client(server):
    with fsfast.Client(server.url) as opened:
        yield opened


def same(found, wanted):
    """Whether features are the same in all that does not tell how the images came."""
    arrays = ("features", "unit", "seeds")
    facts = (
        "seed_origins",
        "grid_sha256",
        "n0",
        "sigma",
        "engine",
        "engine_digest",
        "function_id",
        "random_weights",
    )
    return all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in arrays) and all(
        getattr(found, name) == getattr(wanted, name) for name in facts
    )


def test_features_are_the_encoders(client, encoder, files, picture, photograph):
    images = [files[0], str(photograph), picture, encoder.prepare(files[1])]
    assert same(client.encode(images), encoder.encode(images))
    assert same(
        client.encode(images, 2, seeds=[0, 1, 2, 2**64 - 1]),
        encoder.encode(images, 2, seeds=[0, 1, 2, 2**64 - 1]),
    )
    assert same(client(files[0]), encoder(files[0]))


def test_a_model_is_described_as_the_encoder_is(client, encoder):
    model = client.describe()
    for name in ("engine_digest", "function_id", "sigma", "n0", "tokens", "dim", "grid"):
        assert getattr(model, name) == getattr(encoder, name), name
    assert model.classes == encoder.classes.names


def test_certificates_are_the_encoders(client, encoder, photograph):
    shares = []
    found = client.certify(str(photograph), n=64, progress=shares.append)
    wanted = encoder.certify(photograph.read_bytes(), n=64)
    assert found.to_record() == wanted.to_record()
    assert sum(shares) == pytest.approx(1)
    assert client.verify(found, str(photograph))
    assert not client.verify(found, np.zeros((64, 64, 3), np.uint8))
    assert encoder.verify(found, str(photograph))
    early = client.certify(str(photograph), epsilon=0.05, cosine=0.3, n_max=64, n0=2)
    assert (early.stopping.epsilon, early.anchor.n0) == (0.05, 2)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda client: client.encode(b"no image"), fsfast.ImageError, "no image"),
        (lambda client: client.encode(np.zeros((4, 4, 3), np.uint8), 0), ValueError, "n0"),
        (lambda client: client.encode(np.zeros((4, 4, 3), np.uint8), 10**6), fsfast.ServerError, "n0"),
        (
            lambda client: client.certify(np.zeros((4, 4, 3), np.uint8), n=10, epsilon=0.1),
            ValueError,
            "n_max",
        ),
    ],
)
def test_errors_are_the_encoders(client, call, error, said):
    with pytest.raises(error, match=said):
        call(client)


def test_an_unknown_model_is_named(server, picture):
    with (
        fsfast.Client(server.url, "dmeo") as client,
        pytest.raises(fsfast.ServerError, match="did you mean 'demo'"),
    ):
        client.encode(picture)


def test_many_asynchronous_calls_at_once(server, encoder, files):
    async def session():
        async with fsfast.AsyncClient(server.url) as client:
            return await asyncio.gather(*(client.encode(file) for file in files[:8]))

    for found, file in zip(asyncio.run(session()), files, strict=False):
        assert same(found, encoder.encode(file))


def test_encode_writes_what_a_server_gives(server, encoder, photograph, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert main(["encode", "demo", str(photograph), str(bad), "--server", server.url, "-o", "f.npz"]) == 1
    assert "bad.png" in capsys.readouterr().err
    found, wanted = fsfast.load_features("f.npz"), encoder.encode([str(photograph)])
    assert same(found, wanted)
    assert (found.names, found.sources) == (wanted.names, wanted.sources)
    for _ in range(2):
        assert main(["encode", "demo", str(photograph), "--server", server.url, "-o", "folder/"]) == 0
    assert [each.names for each in fsfast.FeatureFolder("folder")] == [(str(photograph),)]


def test_the_documents_show_what_works(server, photograph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png"):
        shutil.copy(photograph, name)
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    exec(code.replace("http://localhost:8000", server.url).replace("n=1000", "n=60"), {})


@pytest.mark.parametrize("option", [["--raw-mean"], ["--precision", "int8"], ["--threads", "2"]])
def test_encode_refuses_options_of_an_engine_here(option, photograph, tmp_path, capsys):
    words = [
        "encode",
        "demo",
        str(photograph),
        "--server",
        "http://localhost:1",
        "-o",
        str(tmp_path / "f.npz"),
    ]
    assert main([*words, *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_repeated_images_come_from_the_cache_and_chosen_seeds_never(start, encoder, files, tmp_path):
    with (
        start("demo", "--allow-seeds", "--cache-mb", "1", "--cache-dir", str(tmp_path / "cache")) as server,
        fsfast.Client(server.url) as client,
    ):
        for _ in range(2):
            assert same(client.encode(files[:3]), encoder.encode(files[:3]))
            assert same(client.encode(files[0], seeds=[5]), encoder.encode(files[0], seeds=[5]))
        assert same(client.encode(files[0], 2), encoder.encode(files[0], 2))
        text = client._http.get("/metrics").text
    counts = {
        word: line.rpartition(" ")[2]
        for line in text.splitlines()
        for word in ("hit", "miss")
        if line.startswith("fsfast_cache_total") and f'"{word}"' in line
    }
    assert counts == {"hit": "3.0", "miss": "4.0"}
