"""Models whose routing can be replaced, one folder each; found by name through the entry points `r2t2.ports`."""
