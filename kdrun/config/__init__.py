"""The config: from overrides on the command line to checked plain dicts, and from those to objects."""
