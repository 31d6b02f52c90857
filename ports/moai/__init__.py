"""MoAI-7B: InternLM2 with six attention experts in every eighth layer, and the routing between them."""
