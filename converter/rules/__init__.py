"""Rewrite rules, one a file: each says of a conv site whether it applies, and if not, why."""
