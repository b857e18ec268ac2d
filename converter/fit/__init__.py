"""Fitting: which shifted rows a site reads, and their weights, from calibration statistics."""
