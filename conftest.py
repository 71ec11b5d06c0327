"""`pytest` runs the tests; `pytest --benchmark` runs the latency study instead."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the latency study."""
    group = parser.getgroup("fsfast")
    group.addoption(
        "--benchmark", action="store_true", help="run the latency study (n0 = 1…16) instead of the tests"
    )
    group.addoption(
        "--engine", default="demo", help="engine of the latency study (default: the built-in one)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Point pytest to the benchmarks when they are asked for."""
    if config.getoption("--benchmark") and config.args_source != pytest.Config.ArgsSource.ARGS:
        config.args = [str(config.rootpath / "benchmarks")]


def pytest_ignore_collect(collection_path, config: pytest.Config) -> bool | None:  # type: ignore[no-untyped-def]
    """Leave benchmarks out unless they are asked for."""
    if "benchmarks" in collection_path.parts and not config.getoption("--benchmark"):
        return True
    return None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say at what scale this machine runs the latency study."""
    if not config.getoption("--benchmark"):
        return None
    from benchmarks.scale import chosen

    return f"latency study: {chosen().text}"
