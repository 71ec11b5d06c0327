"""The version, read by pyproject.toml and written into engines and certificates."""

__version__ = "0.1.0"
