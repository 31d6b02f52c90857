"""MoVA: a language model whose eyes are eight vision towers, mixed by routing weights [3 blocks, 7 experts]."""
