"""The models, one file per family: each is built as ``cls(channels, classes, size, **YAML)``."""
