"""Jobs over HTTP: submitting, watching, cancelling; the store below is the truth."""
