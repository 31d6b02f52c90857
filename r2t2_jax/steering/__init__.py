"""Steering: a file that selects, masks, boosts or weighs experts by layer and class of tokens (docs/routes.md)."""
