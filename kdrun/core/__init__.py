"""What a method is given: an experiment, its stages and its trained models."""
