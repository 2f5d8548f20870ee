"""OCI registries: what an image is, and which bundles are attached to it. Nothing is verified here but digests."""
