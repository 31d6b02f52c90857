"""The figures of a report, one file each: a function from a model's results to a `Picture`, or `None` without data."""
