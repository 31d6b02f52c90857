"""Evaluation of strategies on questions: encoding, references, one evaluator, benchmarks, banks, tuning, statistics."""
