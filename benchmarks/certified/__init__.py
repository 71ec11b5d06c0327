"""Studies of the certificates: coverage, soundness, tightness, and what an engine certifies."""
