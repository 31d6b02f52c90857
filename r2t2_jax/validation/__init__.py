"""Checks of ports and strategies before anything is computed."""
