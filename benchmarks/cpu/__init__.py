"""What is measured on a CPU."""
