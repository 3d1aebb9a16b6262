"""What a run shows: progress, tables, figures."""
