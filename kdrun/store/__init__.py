"""All that is written, and how it is read again."""
