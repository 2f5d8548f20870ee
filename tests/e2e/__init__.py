"""Against a live gateway."""
