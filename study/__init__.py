"""Attacks on any engine, and what they reach: run from a clone."""
