"""The embedded model: a small mixture-of-vision-experts language model, its world, its recipe and its weights."""
