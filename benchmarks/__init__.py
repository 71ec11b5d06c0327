"""Benchmarks: one registry of cases; `python -m benchmarks` and `pytest --benchmark` are its fronts."""
