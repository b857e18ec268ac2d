"""Named graph passes: each takes a GraphModule and returns a rewritten copy."""
