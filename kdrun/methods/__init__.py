"""What is learned from whom, in what order: one idea a file, each reads like its paper."""
