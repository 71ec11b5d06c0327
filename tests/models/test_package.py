"""Importing the networks."""

import subprocess
import sys

import pytest


def test_without_torch_a_network_says_what_is_missing():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import fsfast.models as models\n"
        "from fsfast.errors import BackendUnavailable\n"
        "try:\n    models.UNet\n"
        "except BackendUnavailable as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "UNet needs torch" in done.stdout
    assert "pip install" in done.stdout


def test_an_unknown_name_is_an_attribute_error():
    import fsfast.models

    with pytest.raises(AttributeError, match="no attribute 'UNett'"):
        _ = fsfast.models.UNett
