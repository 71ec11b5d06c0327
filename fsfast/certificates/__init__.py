"""Certificates: drawn, stated, written, read, and replayed."""
