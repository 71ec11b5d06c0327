"""`fsfast serve` under load and among hostile clients."""
