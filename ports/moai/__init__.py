"""MoAI-7B: InternLM2 with six attention experts in every eighth layer, mixed by weights [4 mixers, 6 experts]."""
