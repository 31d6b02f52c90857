"""Routing as data: recordings of the router's choices, their exchange with other tools, and maps of experts."""
