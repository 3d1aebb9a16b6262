"""The parts of scripts/bench.py: kdrun's loop, its bare step, the loop everyone writes, and how they are timed."""
