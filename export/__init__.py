"""Checkpoints to engines: `python -m export RECIPE`. Works from a clone; not part of the wheel."""
