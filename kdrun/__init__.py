"""kdrun: the knowledge-distillation lab that fits in one command."""

__version__ = "0.1.0"
