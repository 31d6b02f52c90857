"""Rivals of re-routing from the literature, one file each."""
