"""README and docs quote the results files."""
