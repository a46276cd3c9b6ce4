"""Language models: the two families' forward passes, and loading them by name."""
