"""``python -m kdrun`` is ``kdrun``."""

from kdrun.cli import script

if __name__ == "__main__":
    script()
