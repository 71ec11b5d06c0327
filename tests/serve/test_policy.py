"""A rule that answers are held against."""

from __future__ import annotations

import json

import pytest

httpx = pytest.importorskip("httpx", reason="the tests of the server ask by httpx")
pytest.importorskip("prometheus_client", reason="the server needs the extra [serve]")

from fsfast.serve.policy import Policy, parse_policy  # noqa: E402
from tests.serve.test_requests import features_of, infer  # noqa: E402


def test_rules_are_read():
    assert parse_policy("epsilon=0.25") == ("", Policy(0.25))
    assert parse_policy("photo:epsilon=0.1,min_cosine=0.9,n_max=500,action=refuse,alpha=0.01") == (
        "photo",
        Policy(0.1, 0.9, 500, "refuse", 0.01),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted a rule like"),
        ("min_cosine=0.5", "wanted a rule with epsilon"),
        ("epsilon=far", "wanted a number as epsilon"),
        ("epsilon=0.1,cosine=0.5", "did you mean 'min_cosine'"),
        ("epsilon=0.1,action=drop", "flag, refuse"),
        ("epsilon=0.1,min_cosine=1.5", "a cosine in"),
    ],
)
def test_wrong_rules_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_policy(text)


def test_answers_say_whether_they_are_certified_or_are_refused(start, encoder, files):
    lax, strict = (
        "lax:epsilon=0.01,min_cosine=0.1,n_max=40",
        "strict:epsilon=0.7,min_cosine=0.9,n_max=40,action=refuse",
    )
    with (
        start("lax=demo", "strict=demo", "--policy", lax, "--policy", strict) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        answer = infer(client, [files[0], b"no image"], model="lax")
        assert json.loads(answer.json()["parameters"]["certified"]) == [True, None]
        assert (features_of(answer)[0] == encoder.encode(files[0]).features[0]).all()
        refused = infer(client, files[:1], model="strict")
        assert (refused.status_code, refused.json()["type"]) == (422, "NotCertified")
        assert "n_max" in refused.json()["error"]
        counted = client.get("/metrics").text
        assert 'model="lax",reason="reached"} 1.0' in counted
        assert 'model="strict",reason="n_max"} 1.0' in counted
        assert all(
            line.endswith(" 0.0") for line in counted.splitlines() if line.startswith("fsfast_waiting_rows{")
        )
