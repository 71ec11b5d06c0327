"""Who may ask, and for what."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

from fsfast.serve.errors import NotAllowed, NotAuthorised  # noqa: E402
from fsfast.serve.keys import Caller, Keys, presented  # noqa: E402
from tests.serve.test_requests import infer  # noqa: E402

KEY = "0123456789abcdef"


def test_keys_have_names_and_rights(tmp_path):
    path = tmp_path / "keys"
    hashed = hashlib.sha256(b"another key of somebody").hexdigest()
    path.write_text(f"# who may ask\nreader {KEY}  # plain\n\nroot sha256:{hashed} admin seeds\n")
    keys = Keys(path)
    assert keys.caller(KEY, "::1") == Caller("reader")
    assert keys.caller("another key of somebody", "::1") == Caller("root", admin=True, seeds=True)
    for key in (None, "", KEY + "0", f"sha256:{hashed}", "ключ"):
        with pytest.raises(NotAuthorised):
            keys.caller(key, "::1")
    with pytest.raises(NotAllowed, match="'admin', reader"):
        keys.caller(KEY, "::1").require("admin")


def test_without_a_file_everybody_may_ask_and_nobody_may_choose_seeds():
    assert Keys().caller(None, "10.0.0.7") == Caller("10.0.0.7")
    with pytest.raises(NotAllowed, match="--allow-seeds"):
        Keys().caller(None, "10.0.0.7").require("seeds")
    assert Keys(seeds=True).caller("whatever", "10.0.0.7").seeds


@pytest.mark.parametrize(
    "text", ["", "# nobody", "reader", "reader short", "reader sha256:12", f"reader {KEY} root"]
)
def test_files_that_are_off_are_refused_and_show_no_key(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match="wanted") as caught:
        Keys(path)
    assert KEY not in str(caught.value)


def test_keys_come_as_bearer_or_header():
    assert presented({"authorization": f"Bearer {KEY}"}) == KEY
    assert presented({"x-api-key": KEY}) == KEY
    assert presented({"authorization": "Basic abc"}) is None


def test_models_are_reloaded_and_keys_rotated_while_requests_run(start, engine, files, tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"reader {KEY}\nroot {KEY[::-1]} admin\n")
    with start(str(engine), "--keys", str(path)) as server:
        reader, root, late = (
            httpx.Client(base_url=server.url, timeout=60, headers={"authorization": f"Bearer {key}"})
            for key in (KEY, KEY[::-1], KEY + KEY)
        )
        assert infer(httpx.Client(base_url=server.url), files[:1], model="engine").status_code == 401
        assert infer(reader, files[:1], model="engine").status_code == 200
        assert infer(reader, files[:1], model="engine", seed=1).status_code == 403
        assert reader.post("/v2/repository/models/engine/unload").status_code == 403

        assert root.post("/v2/repository/models/engine/unload").status_code == 200
        (state,) = reader.post("/v2/repository/index").json()
        assert (state["name"], state["state"]) == ("engine", "UNAVAILABLE")
        assert infer(reader, files[:1], model="engine").status_code == 503
        assert root.post("/v2/repository/models/engine/load").status_code == 200
        assert infer(reader, files[:1], model="engine").status_code == 200

        # An engine that is damaged meanwhile does not replace the one that serves; the keys are new.
        shutil.move(engine / "engine.json", engine / "elsewhere.json")
        assert root.post("/v2/repository/models/engine/load").json()["type"] == "EngineError"
        path.write_text(f"late {KEY}{KEY}\n")
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 30
        while infer(late, files[:1], model="engine").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert infer(reader, files[:1], model="engine").status_code == 401
        log = server.stop()
    assert "stays as it was" in log
    assert not any(key in log for key in (KEY, KEY[::-1]))
