"""Auxiliary inputs of MoAI: records of other vision models' outputs, their storage and their verbalization."""
