"""The recipe of the pocket model: experts, alignment, language model, gates. `python -m ports.pocket.training.train` runs it."""
