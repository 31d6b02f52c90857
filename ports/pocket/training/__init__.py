"""Training recipe of the pocket model; `python -m ports.pocket.training.train` runs it."""
