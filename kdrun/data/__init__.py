"""Data sets: reads, checks and splits them, and makes batches."""
