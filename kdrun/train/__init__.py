"""Training: batches, updates and stages, the training loop, and the scores."""
