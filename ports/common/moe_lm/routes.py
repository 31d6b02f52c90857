"""Routes of prompt and answer from the choices of the parts in which a language model runs them.

Axis letters: T prompt tokens, A answer tokens, N layers, E experts, k chosen experts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ports.common.layers.moe import ExpertChoice
from r2t2_jax.contract import TOKEN_KINDS, TokenRoutes


def prompt_choice(early: ExpertChoice | None, before: ExpertChoice | None, late: ExpertChoice) -> ExpertChoice:
    """The choices at all tokens of a prompt in all layers, as [T, N, .].

    Args:
        early: of all tokens in the first layers [layers, T, .]; `None` if there are none.
        before: of the first tokens in the other layers; `None` if there are none.
        late: of the other tokens in the other layers.
    """

    def joined(first: ExpertChoice, second: ExpertChoice, axis: int) -> ExpertChoice:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), first, second)

    choice = late if before is None else joined(before, late, 1)
    choice = choice if early is None else joined(early, choice, 0)
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), choice)


def token_routes(
    tokens: Int[Array, "T+A"],
    kinds: Int[Array, "T"],
    answer: Bool[Array, "A"],
    prompt: ExpertChoice,
    choices: ExpertChoice,
    logits: bool,
) -> TokenRoutes:
    """The routes of a prompt and its answer.

    Args:
        tokens: of both.
        kinds: of the prompt's tokens, indices into `TOKEN_KINDS`; -1 for padding.
        answer: the answer's tokens; the others are padding.
        prompt: choices at the prompt's tokens.
        choices: choices at the answer's tokens.
        logits: whether to keep the gates' logits.
    """
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), prompt, choices)
    return TokenRoutes(
        tokens=tokens,
        kinds=jnp.concatenate([kinds, jnp.where(answer, TOKEN_KINDS.index("answer"), -1)]),
        experts=whole.ids,
        weights=whole.weights.astype(jnp.float16),
        logits=whole.logits.astype(jnp.float16) if logits else None,
    )
