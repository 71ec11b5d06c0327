"""What was certified stands in the audit log, and its probability of error in the metrics."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

from fsfast.runtime.seeds import key_id  # noqa: E402
from fsfast.serve.audit import AuditLog, digest  # noqa: E402
from fsfast.serve.errors import AuditFailed  # noqa: E402
from tests.serve.test_requests import infer  # noqa: E402


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def budget(client):
    text = client.get("/metrics").text
    return sum(float(value) for value in re.findall(r"^fsfast_error_budget_total\{.*\} (.*)$", text, re.M))


def certify(client, file, **asked):
    return client.post("/v1/certificates", json={"image": base64.b64encode(file).decode(), **asked})


def test_every_certificate_is_logged_and_its_alpha_counted(start, encoder, files, tmp_path):
    log, old = tmp_path / "logs" / "audit.jsonl", tmp_path / "logs" / "audit.jsonl.1"
    log.parent.mkdir()
    keys = tmp_path / "keys"
    keys.write_text("lab a-key-of-at-least-16-characters\n")
    options = ("--audit-log", str(log), "--keys", str(keys), "--policy", "epsilon=0.05,n_max=40,alpha=0.01")
    with (
        start("demo", *options) as server,
        httpx.Client(
            base_url=server.url,
            timeout=60,
            headers={"x-api-key": "a-key-of-at-least-16-characters", "x-request-id": "request-7"},
        ) as client,
    ):
        made = certify(client, files[0], n=20, alpha=0.002).json()["certificate"]
        (line,) = lines(log)
        assert (line["request_id"], line["caller"], line["purpose"]) == ("request-7", "lab", "certificate")
        assert line["certificate_sha256"] == digest(made)
        assert (line["model"], line["function_id"]) == ("demo", encoder.function_id)
        assert line["engine_digest"] == encoder.engine_digest
        assert line["grid_sha256"] == made["image"]["grid_sha256"]
        assert line["seed"] == made["certification"]["seed"]
        assert line["key_id"] == encoder.seeds.key_id == key_id(b"a secret that only tests know")
        assert (line["n"], line["alpha"], line["stopping"]) == (20, 0.002, None)
        assert line["bounds"] == made["bounds"]
        assert stat.S_IMODE(log.stat().st_mode) == 0o600

        # Held against the rule, certified or not.
        assert infer(client, files[:2]).status_code == 200
        judged = lines(log)[1:]
        assert [line["purpose"] for line in judged] == ["policy"] * 2
        assert all(line["stopping"]["epsilon"] == 0.05 for line in judged)
        assert budget(client) == pytest.approx(0.002 + 2 * 0.01)

        # As logrotate does.
        log.rename(old)
        certify(client, files[1], n=20)
        assert (len(lines(old)), len(lines(log))) == (3, 1)

        # Nobody gets what is not logged; and once it can be, everything goes on.
        shutil.rmtree(log.parent)
        kept_back = certify(client, files[2], n=20)
        assert (kept_back.status_code, kept_back.json()["type"]) == (503, "AuditFailed")
        assert "certificate" not in kept_back.json()
        assert "No such file" in server.log.read_text(encoding="utf-8")
        log.parent.mkdir()
        assert certify(client, files[2], n=20).status_code == 200
        assert len(lines(log)) == 1


def test_who_watches_a_certificate_grow_and_leaves_has_spent_its_alpha(server, files):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        before = budget(client)
        asked = {
            "image": base64.b64encode(files[0]).decode(),
            "n": 100_000,
            "alpha": 0.003,
            "stream": True,
        }
        with client.stream("POST", "/v1/certificates", json=asked) as answer:
            next(answer.iter_lines())
        for _ in range(600):
            if budget(client) > before:
                break
        assert budget(client) - before == pytest.approx(0.003)


def test_a_line_that_was_cut_off_swallows_no_other(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n"')
    log = AuditLog(path)
    log.append({"n": 2})
    log.append({"n": 3})
    log.close()
    with pytest.raises(AuditFailed):
        log.append({"n": 4})
    assert path.read_bytes() == b'{"n": 1}\n{"n"\n{"n": 2}\n{"n": 3}\n'


def test_a_line_for_which_there_is_no_room_is_refused_and_swallows_no_other(tmp_path):
    """The limit of a file's size cuts a write short as a full disk does."""
    code = """
import resource, signal, sys
from pathlib import Path
from fsfast.serve.audit import AuditLog
from fsfast.serve.errors import AuditFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4, resource.RLIM_INFINITY))
try:
    log.append({"n": 1})
except AuditFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append({"n": 2})
"""
    path = tmp_path / "audit.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "nothing is certified" in done.stdout
    assert path.read_bytes() == b'{"n"\n{"n": 2}\n'


def test_many_threads_and_two_logs_write_whole_lines(tmp_path):
    path = tmp_path / "audit.jsonl"
    logs = AuditLog(path), AuditLog(path)
    with ThreadPoolExecutor(8) as team:
        list(team.map(lambda i: logs[i % 2].append({"i": i, "text": "σ" * 2000}), range(100)))
    assert sorted(line["i"] for line in lines(path)) == list(range(100))


@pytest.mark.parametrize(
    ("name", "said"), [(".", "is a directory"), ("missing/audit.jsonl", "does not exist")]
)
def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=said):
        AuditLog(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_digest_does_not_depend_on_how_a_file_is_written(encoder, files):
    record = encoder.certify(files[0], 20, progress=False).to_record()
    again = json.loads(json.dumps(dict(reversed(record.items())), indent=3))
    assert digest(again) == digest(record)
    assert digest({**record, "sigma": 0.1}) != digest(record)
