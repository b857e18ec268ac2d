"""The blob store: bytes by their SHA-256, counted references, collection of what nobody holds."""
