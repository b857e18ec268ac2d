"""Who asks, what they may, and how much: API keys, scopes, rates, headers and limits."""
