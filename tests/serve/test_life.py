"""A server's beginning and end."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

import pytest

from benchmarks.load.server import status_of
from tests.serve.test_requests import infer

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")


def test_sigterm_answers_what_was_accepted_and_says_so_before(start, encoder, files):
    with start("demo", "--drain-seconds", "1") as server:
        found = []

        def ask():
            with httpx.Client(base_url=server.url, timeout=60) as client:
                found.append(infer(client, files[:4], n0=25))

        asking = threading.Thread(target=ask)
        asking.start()
        while (
            "fsfast_waiting_rows" not in (text := httpx.get(f"{server.url}/metrics").text)
            or " 100.0" not in text
        ):
            time.sleep(0.01)
        server.process.terminate()
        end = time.monotonic() + 30
        while status_of(f"{server.url}/v2/health/ready") != 503:
            assert time.monotonic() < end
        assert status_of(f"{server.url}/v2/health/live") == 200
        server.process.wait(60)
        log = server.log.read_text(encoding="utf-8")
        asking.join()
        (answer,) = found
        assert answer.status_code == 200
        assert status_of(f"{server.url}/v2/health/live") == 0
    lines = [json.loads(line) for line in log.splitlines()]
    (request,) = [line for line in lines if line.get("path") == "/v2/models/demo/infer"]
    assert (request["status"], request["images"], request["model"]) == (200, 4, "demo")
    assert request["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["demo", "demo"], "names of their own"),
        (["demo", "--max-rows", "0"], "--max-rows > 0"),
        (["demo", "--policy", "epsilon"], "wanted a number as epsilon"),
        (["demo", "--policy", "dem:epsilon=0.1"], "wanted --policy for demo, got dem"),
        (["demo", "--keys", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(capsys, arguments, message):
    pytest.importorskip("fastapi", reason="the server needs the extra [serve]")
    from fsfast.cli import main

    assert main(["serve", "--port", "0", *arguments]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("fsfast serve: ")
    assert message in last
    # A program that embeds the command keeps its own log.
    assert not logging.getLogger("fsfast").handlers


def test_what_is_missing_is_named_with_the_command_that_installs_it(capsys, monkeypatch):
    from fsfast.cli import main

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fsfast.serve.server", raising=False)
    assert main(["serve", "demo"]) == 2
    said = capsys.readouterr().err
    assert "a server needs more packages" in said
    assert "serve]" in said
