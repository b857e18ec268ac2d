"""API keys, tenants' usage and the audit log."""
