"""Fixtures that tests of commands share."""

import pytest

from fsfast.cli import main


@pytest.fixture
def fs(capsys):
    """Run a command; return (exit code, stdout, stderr)."""

    def call(*args):
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
