"""Timing, processes of their own, rows and tables, engines to measure."""
