"""Training: the nouns, the loop, and what it measures."""
