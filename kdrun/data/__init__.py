"""Data sets: read, checked, split, and handed out as batches."""
