"""Reads the user's data, splits it once and for all, and scores outputs on it."""
