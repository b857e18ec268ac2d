"""Many architectures through the whole engine: export, exactness, fit, artifacts, other sizes, names."""
