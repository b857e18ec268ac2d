"""Measures what a model costs: latency in each runtime, parameters, bytes and multiply-adds."""
