"""Checkpoints to engines: `fsfast export RECIPE`. Wheels hold it as `fsfast.export`."""
