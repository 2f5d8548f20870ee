"""Migrations of the metadata database, one file a step."""
