"""Collect a reference bank, run strategies over a test set, and summarise what they did."""
