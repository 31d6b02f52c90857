"""OLMoE (1B-7B), the model of C3PO."""
