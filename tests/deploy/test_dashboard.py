"""The dashboard and the alerts ask for metrics and labels that a server has."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
yaml = pytest.importorskip("yaml", reason="rules are written in YAML")
pytest.importorskip("fastapi", reason="the server needs the extra [serve]")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from benchmarks.load.server import Server  # noqa: E402
from fsfast.report.examples import load_examples  # noqa: E402

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "fsfast.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [
    (f"{panel['title']}, {target['refId']}", target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]
EXPRESSIONS = [*PANELS, *((rule["alert"], rule["expr"]) for rule in RULES)]
# Prometheus adds these to what it scrapes.
SCRAPED = {"up": {"job", "instance"}}
# A selector: a metric and what stands in its braces.
_SELECTOR = re.compile(r"\b(up|fsfast_\w+)(?:\{((?:[^{}\"]|\"[^\"]*\")*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPING = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Metric → its labels, of a server that did something of everything."""
    image = base64.b64encode(load_examples()[0].image.read_bytes()).decode()
    options = ("--policy", "epsilon=0.05,n_max=40", "--cache-mb", "10")
    with (
        Server("demo", *options) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for data in (image, "AAAA"):
            client.post("/v1/embeddings", json={"input": f"data:image/png;base64,{data}"})
        client.post("/v1/certificates", json={"image": image, "n": 20})
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {name: set(labels) for name, labels in SCRAPED.items()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    return found


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_every_expression_asks_for_what_is_served(served, name, expression):
    selectors = _SELECTOR.findall(expression)
    assert selectors
    for metric, inside in selectors:
        assert metric in served
        assert set(_LABEL.findall(inside)) <= served[metric], metric
    known = set().union(*(served[metric] for metric, _ in selectors))
    for labels in _GROUPING.findall(expression):
        assert {label.strip() for label in labels.split(",") if label.strip()} <= known


def test_every_metric_that_is_served_is_shown_or_alarms(served):
    """What nobody looks at need not be counted."""
    asked = {metric for _, expression in EXPRESSIONS for metric, _ in _SELECTOR.findall(expression)}
    unseen = {re.sub(r"_(created|sum|count|bucket)$", "", metric) for metric in set(served) - asked}
    shown = {re.sub(r"_(total|bucket)$", "", metric) for metric in asked}
    assert {metric.removesuffix("_total") for metric in unseen} - shown == {"fsfast_micro_batches"}


def test_the_page_about_the_server_names_every_metric(served):
    page = (DEPLOY.parent / "docs" / "network.md").read_text(encoding="utf-8")
    for metric in served.keys() - SCRAPED.keys():
        if not metric.endswith(("_created", "_sum", "_count", "_bucket")):
            assert f"`{metric}`" in page


def test_alerts_name_labels_that_their_expressions_keep():
    for rule in RULES:
        said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        grouped = re.search(r"^(?:sum|count|histogram_quantile)\b.*?\bby \(([^)]*)\)", rule["expr"])
        if grouped:
            assert said <= set(grouped[1].replace(" ", "").split(",")), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_do_not_overlap_and_name_their_source():
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        squares = {
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        }
        assert not squares & places
        places |= squares
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.fixture
def promtool():
    """Prometheus' own checker; Debian's package prometheus has it."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")

    def call(*arguments):
        done = subprocess.run(
            [found, *arguments], capture_output=True, text=True, check=False, cwd=DEPLOY / "prometheus"
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return call


def test_prometheus_takes_the_rules_and_they_alarm_when_they_should(promtool):
    promtool("check", "rules", "alerts.yaml")
    promtool("test", "rules", "alerts_test.yaml")


def test_prometheus_reads_every_expression_of_the_dashboard(promtool, tmp_path):
    rules = [
        {"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "5m")}
        for i, (_, expression) in enumerate(PANELS)
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))
