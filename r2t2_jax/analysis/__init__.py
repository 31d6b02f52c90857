"""Analysis of a model and its bank: whether re-routing helps, and why."""
