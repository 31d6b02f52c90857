"""Diagnosis of a model and its bank: will re-routing help, and why."""
