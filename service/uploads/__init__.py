"""Uploads that resume (tus 1.0): bytes to a staging file, vetted in a sandbox, then kept as a model or a data set."""
