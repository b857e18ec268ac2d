"""One revision a file, each one from its predecessor to itself and back."""
