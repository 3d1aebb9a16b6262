"""The objects that a method works with: an experiment, its stages and its trained models."""
