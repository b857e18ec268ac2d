"""Data sets that a tenant has uploaded, and what a model would see of them."""
