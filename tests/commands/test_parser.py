"""Words of the command line: options of several values, options anywhere, and what is said about mistakes."""

from __future__ import annotations

import argparse
import contextlib

import pytest
from PIL import Image

from fsfast.cli import _parser, main
from fsfast.commands.parser import Parser, Several, integer, number, one_of


def parse(*words):
    return _parser().parse_args(list(words))


@pytest.fixture
def wrong(capsys):
    """Run a command that is wrong use; return what it says."""

    def call(*words):
        with contextlib.suppress(SystemExit):
            assert main(list(words)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err

    return call


CERTIFY = ("certify", "demo", "a.png")


@pytest.mark.parametrize(
    "words",
    [
        (*CERTIFY, "--epsilon", "0.1", "0.2"),
        (*CERTIFY, "--epsilon", "0.1,0.2"),
        (*CERTIFY, "--epsilon=0.1,0.2"),
        (*CERTIFY, "--epsilon", "0.1", "--epsilon", "0.2"),
        (*CERTIFY, "--eps", "0.1", "0.2"),
        ("certify", "--epsilon", "0.1", "0.2", "demo", "a.png"),
        ("certify", "demo", "--epsilon", "0.1", "0.2", "a.png"),
        ("certify", "demo", "--epsilon", "0.1,0.2", "--", "a.png"),
    ],
    ids=" ".join,
)
def test_several_values_leave_the_images_alone(words):
    args = parse(*words)
    assert (args.engine, args.images, args.epsilon) == ("demo", ["a.png"], [0.1, 0.2])


def test_several_values_replace_the_default():
    assert parse("bench", "demo").n0 == [1, 2, 4, 8, 16]
    assert parse("bench", "--n0", "4", "8", "demo").n0 == [4, 8]
    assert parse("bench", "demo").n0 == [1, 2, 4, 8, 16]
    assert parse("demo", "--image", "a", "b", "--image", "c").image == ["a", "b", "c"]


def test_a_value_with_a_comma_may_be_one_value():
    option = Several(["--run"], "run", item=one_of(["a,b", "c"]))
    assert option.read("a,b") == ["a,b"]
    assert option.read("c,c") == ["c", "c"]
    assert not option.reads("c,d")


def test_an_image_that_is_called_like_a_number(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    said = wrong("certify", "demo", "--epsilon", "0.1", "7", "a.png")
    assert "write ./7 for the file, or --epsilon=7 for the value" in said
    args = parse("certify", "demo", "--epsilon", "0.1", "./7")
    assert (args.epsilon, args.images) == ([0.1], ["./7"])
    # Right after the option nothing else can be meant.
    assert parse(*CERTIFY, "--epsilon", "7").epsilon == [7.0]


def test_images_on_both_sides_of_an_option():
    args = parse("encode", "demo", "a.png", "-o", "x.npz", "b.png", "c.png")
    assert args.images == ["a.png", "b.png", "c.png"]
    # A list on stdin is no option.
    assert parse("encode", "demo", "-o", "x.npz", "a.png", "--n0", "1", "-").images == ["a.png", "-"]


@pytest.mark.parametrize("words", [("-v", "doctor"), ("doctor", "-v"), ("doctor", "--verbose")], ids=" ".join)
def test_verbose_before_and_after_the_command(words):
    assert parse(*words).verbose is True
    assert parse("doctor").verbose is False


@pytest.mark.parametrize(
    ("words", "usage", "message"),
    [
        (("encod",), "usage: fsfast [options] COMMAND", "did you mean 'encode'?"),
        (("--verbos3", "info"), "usage: fsfast [options] COMMAND", "--verbos3; did you mean '--verbose'?"),
        (("encode", "--sed", "7"), "usage: fsfast encode", "unknown option --sed; did you mean '--seed'?"),
        (("info", "--jsn"), "usage: fsfast info", "unknown option --jsn; did you mean '--json'?"),
        (("info", "-x"), "usage: fsfast info", "unknown option -x"),
        (("info", "demo", "more"), "usage: fsfast info", "wanted nothing more, got 'more'"),
        ((*CERTIFY, "--method", "mixtur"), "usage: fsfast certify", "did you mean 'mixture'?"),
        ((*CERTIFY, "--epsilon", "0.1,x"), "usage: fsfast certify", "numbers such as 0.1,0.2, got 'x'"),
        ((*CERTIFY, "--epsilon", "-n", "5"), "usage: fsfast certify", "--epsilon: expected one argument"),
        (("bench", "demo", "--n0", "1.5"), "usage: fsfast bench", "integers such as 1,2, got '1.5'"),
        (("encode",), "usage: fsfast encode", "required: ENGINE, IMAGE"),
        (("info", "--\x1b[31m"), "usage: fsfast info", "unknown option --\\u001b[31m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_shows_the_usage_of_its_command(wrong, words, usage, message):
    said = wrong(*words)
    assert said.startswith(usage)
    assert message in said
    assert said.count("\n") == 2


def test_the_program_alone_shows_its_help(wrong):
    said = wrong()
    assert "Certify the direction" in said
    assert "exit codes" in said


@pytest.mark.parametrize("command", ["encode", "certify"])
@pytest.mark.parametrize("name", ["photo.jpg", "picture"])
def test_an_image_in_the_place_of_the_engine(tmp_path, monkeypatch, wrong, command, name):
    monkeypatch.chdir(tmp_path)
    if "." not in name:
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    for words in ((command, name), (command, name, "demo"), (command, name, "other.png")):
        said = wrong(*words)
        assert f"{name} looks like an image; the engine comes first: fsfast {command} demo {name}" in said


def test_folders_are_engines_whatever_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.png").mkdir()
    assert parse("encode", "clip.png", "a.png", "-o", "x.npz").engine == "clip.png"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    "command", ["", "demo", "inspect", "info", "doctor", "encode", "certify", "verify", "bench"]
)
def test_help_fits_the_terminal(monkeypatch, capsys, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_negative_values():
    parser = Parser(prog="x")
    parser.add_argument("--n", action=Several, item=integer)
    parser.add_argument("--x", action=Several, item=number)
    assert parser.parse_args(["--n", "1", "2", "--x", "-1", "-2.5"]) == argparse.Namespace(
        n=[1, 2], x=[-1.0, -2.5]
    )
