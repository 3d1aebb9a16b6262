"""``python -m kdrun`` is ``kdrun``."""

import os
import sys

# Python itself puts the working directory first (unless -P is given), where a file could replace an installed module.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from kdrun.cli import script

if __name__ == "__main__":
    script()
