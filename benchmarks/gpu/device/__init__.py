"""Whole encodes on a GPU: networks of the paper's shapes with random weights, and a language model behind them."""
