"""Serving on a CPU: micro-batches side by side on threads."""
