"""What an earlier version wrote: an engine, a picture, certificates; `test_written_before.py` says which."""

from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "written_before"
ENGINE = FOLDER / "engine"
