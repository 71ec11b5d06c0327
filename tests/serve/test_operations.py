"""The page for operators: its commands work one after the other, and it answers for every alert."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.load.server import free_port, status_of

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
yaml = pytest.importorskip("yaml", reason="rules are written in YAML")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
# The machinery is the same, and the tests are quick.
QUICK = {"bench photo": "bench demo --runs 1 --n0 1,4 --backend onnxruntime", "photo --": "demo --"}


class Session:
    """A shell in a folder, line after line; a server keeps running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, block: str) -> str:
        """Run a block of the page; return what it prints."""
        for shown, quick in QUICK.items():
            block = block.replace(shown, quick)
        block = block.replace("fsfast ", f"{sys.executable} -m fsfast ")
        lines = block.splitlines()
        served = [line for line in lines if " serve " in line]
        others = "\n".join(line for line in lines if line not in served)
        said = subprocess.run(
            ["bash", "-euc", others],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        for line in served:
            self._serve(line)
        return said.stdout

    def _serve(self, line: str) -> None:
        words = [*shlex.split(line, comments=True), "--port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            self.server = subprocess.Popen(words, cwd=self.folder, env=self.environment, stderr=log)
        end = time.monotonic() + 120
        while status_of(f"{self.url}/v2/health/ready") != 200:
            assert self.server.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.fixture
def session(tmp_path, photograph):
    shutil.copy(photograph, tmp_path / "photo.jpg")
    made = Session(tmp_path)
    yield made
    if made.server is not None:
        made.server.kill()
        made.server.wait()


def block(part: str) -> str:
    """Return the one block in which something stands."""
    (found,) = [text for text in BLOCKS if part in text]
    return found


def certificate_of(session: Session) -> dict:
    image = base64.b64encode((session.folder / "photo.jpg").read_bytes()).decode()
    answer = httpx.post(f"{session.url}/v1/certificates", json={"image": image, "n": 20}, timeout=60)
    found = answer.json()["certificate"]
    (session.folder / "photo.certificate.json").write_text(json.dumps(found))
    return found


@pytest.mark.skipif(shutil.which("openssl") is None, reason="secrets are made by openssl")
def test_the_commands_of_the_page_work_in_their_order(session):
    ran = [block("fsfast bench"), block("openssl rand"), block("fsfast verify"), block("serve.audit")]
    assert sorted(ran) == sorted(BLOCKS)
    sizing, secret, verify, audit = ran

    said = session.run(sizing)
    assert said.count("machines") >= 2
    assert "samples per certificate" in said

    session.run(secret)
    old = certificate_of(session)
    assert old["certification"]["key_id"]
    assert session.run(verify).startswith("same")
    budget, digest = session.run(audit).split()
    (line,) = (session.folder / "audit.jsonl").read_text().splitlines()
    assert float(budget) == json.loads(line)["alpha"]
    assert digest == json.loads(line)["certificate_sha256"]

    # As the page says: a new secret, SIGHUP, a new key id; the old certificate stays true.
    (session.folder / "old").write_bytes((session.folder / "secret").read_bytes())
    session.run(block("openssl rand").splitlines()[0])
    assert session.server is not None
    session.server.send_signal(signal.SIGHUP)
    end = time.monotonic() + 60
    while f'key_id="{old["certification"]["key_id"]}"' in httpx.get(f"{session.url}/metrics").text:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert session.run(verify).startswith("same")
    assert certificate_of(session)["certification"]["key_id"] != old["certification"]["key_id"]


def test_every_alert_has_its_line():
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    night = PAGE.partition("## Three in the morning")[2]
    named = {
        alert for line in night.splitlines() for alert in re.findall(r"`(Fsfast\w+)`", line.split(" | ")[0])
    }
    assert named == alerts
    assert set(re.findall(r"`(Fsfast[A-Z]\w+)`", PAGE)) <= alerts


def test_what_the_page_calls_panels_are_panels():
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "fsfast.json").read_text(encoding="utf-8"))
    titles = {panel["title"] for panel in dashboard["panels"]}
    night = PAGE.partition("## Three in the morning")[2]
    shown = {cell for line in night.splitlines()[3:] for cell in re.findall(r"\*([A-Z][^*]+)\*", line)}
    assert shown - {"Memory"} <= titles


def test_the_page_has_the_fields_of_the_audit_log(encoder, files):
    from fsfast.serve.audit import entry

    made = encoder.certify(files[0], 20, progress=False)
    fields = set(entry(made, purpose="certificate", model="demo", caller="lab"))
    table = PAGE.partition("| field | |")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == fields


def test_the_numbers_of_the_page_are_those_of_the_manifest():
    manifest = (ROOT / "deploy" / "kubernetes" / "fsfast.yaml").read_text(encoding="utf-8")
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)[1]
    drain = re.search(r"--drain-seconds=(\d+)", manifest)[1]
    assert f"`terminationGracePeriodSeconds` is {grace}" in PAGE
    assert f"`--drain-seconds` ({drain};" in PAGE
