"""Pictures of Debian packages and PyPI wheels as training data."""
