"""The command line: thin commands that load torch only when they need it."""
