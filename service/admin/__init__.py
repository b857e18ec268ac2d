"""What an operator does to a deployment beside the service: tables, backup and restore, checks, draining workers."""
