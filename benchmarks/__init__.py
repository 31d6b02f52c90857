"""The scripts that produced the published numbers."""
