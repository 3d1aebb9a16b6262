"""The nets, one file per family: each is built as ``cls(channels, classes, size, **its YAML)``."""
