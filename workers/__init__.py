"""Jobs that cannot be lost: the store, the supervisor, the sandbox and their dispatch."""
