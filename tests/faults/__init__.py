"""Faults, by really killing and breaking things."""
