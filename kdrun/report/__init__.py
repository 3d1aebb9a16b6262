"""The output of a run: progress, tables and figures."""
