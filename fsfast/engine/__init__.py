"""Engines: what a folder of graphs, weights and a manifest says, and that nothing in it was altered."""
