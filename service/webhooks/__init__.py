"""Tells whoever asked that a job has ended: signed, again until it is heard, and only in the open network."""
