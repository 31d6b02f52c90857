"""The figures of a report, one file each: a function from a model's results to a `FigureSpec`, `None` without data."""
