"""Parts of the gateway alone."""
