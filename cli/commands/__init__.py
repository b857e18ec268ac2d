"""One module a command; each turns options into one call of the engine and its answer into words."""
