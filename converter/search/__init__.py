"""Choosing: what each site costs and damages, the plans that follow, and the frontier of what was measured."""
