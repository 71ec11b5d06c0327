"""Options of several values of the commands that make engines leave what follows them alone."""

from __future__ import annotations

import pytest

from export import __main__ as export
from export import quantise, tensorrt


@pytest.mark.parametrize(
    ("parser", "words", "option", "values"),
    [
        (export._parser, "--compare runs/a runs/b demo", "compare", ["runs/a", "runs/b"]),
        (export._parser, "demo --compare runs/a runs/b", "compare", ["runs/a", "runs/b"]),
        (
            export._parser,
            "--weights ema encoder=raw demo",
            "weights",
            [("", "ema"), ("encoder", "raw")],
        ),
        (
            export._parser,
            "demo --weights encoder=raw,mapper=ema",
            "weights",
            [("encoder", "raw"), ("mapper", "ema")],
        ),
        (tensorrt._parser, "--stages purifier encoder demo", "stages", ["purifier", "encoder"]),
        (tensorrt._parser, "demo --stages purifier,encoder", "stages", ["purifier", "encoder"]),
        (
            quantise._parser,
            "--images i --out o --precisions int8 bfloat16 demo",
            "precisions",
            ["int8", "bfloat16"],
        ),
        (quantise._parser, "--images i --out o --stages encoder demo", "stages", ["encoder"]),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_several_values(parser, words, option, values):
    args = parser().parse_args(words.split())
    assert getattr(args, option) == values
    assert "demo" in (getattr(args, "recipe", None), getattr(args, "engine", None))


@pytest.mark.parametrize(
    ("parser", "words", "message"),
    [
        (export._parser, "demo --compare demo", "wanted the folder of a run, got the recipe demo"),
        (export._parser, "demo --weights best", "wanted raw or ema, for a single stage"),
        (export._parser, "demo --weights text=ema", "as encoder=ema, got 'text=ema'"),
        (export._parser, "demo --outt x", "unknown option --outt; did you mean '--out'?"),
        (quantise._parser, "demo --images i --out o --precisions int9", "got 'int9'; did you mean 'int8'?"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_mistakes(parser, words, message, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(words.split())
    assert message in capsys.readouterr().err
