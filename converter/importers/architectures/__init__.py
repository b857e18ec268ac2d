"""Networks by name, as installed packages define them, with given or random weights."""
