"""Training: Algorithm 1 on a study that fits two processor cores; `python -m train demo`."""
