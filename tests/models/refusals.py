"""How a checkpoint is refused: by one error of one line that names the file."""

import pytest

from fsfast.errors import CheckpointError
from fsfast.models import load_encoder
from tests.models.published import NARROW


def refusal(path, **how):
    """The message of the one error; a line, and beginning with the path."""
    with pytest.raises(CheckpointError) as caught:
        load_encoder(path, how.pop("config", NARROW), **how)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    # The path that was given, or a file in it.
    assert str(path.parent if path.name.endswith(".index.json") else path) in message
    return message
