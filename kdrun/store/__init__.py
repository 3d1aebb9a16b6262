"""Everything that kdrun writes to disk, and how it is read back."""
