"""The metadata database: keys, and which requests were answered how."""
