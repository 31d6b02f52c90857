"""Searches: how the routing weights move."""
