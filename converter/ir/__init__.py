"""The exported program as we see it: loading, the ATen graph and the conv sites in it."""
