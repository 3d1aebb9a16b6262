"""A run, from its config to its closing table."""
