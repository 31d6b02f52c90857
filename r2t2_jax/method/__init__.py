"""The method of R2-T2 and its loss atlas."""
