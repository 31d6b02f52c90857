"""The pocket model, which ships with its weights: a small mixture of vision experts and a language model."""
