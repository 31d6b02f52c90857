"""Code that the ports of language models with a mixture of experts in every layer share; routing is an input."""
