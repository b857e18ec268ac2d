"""Models that a tenant has uploaded."""
