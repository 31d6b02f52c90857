"""Routed language models: the functions of `r2t2_jax.contract.RoutedModel` over `MoEDecoder`.

Only what depends on r is computed again. `encode` runs the prompt once. With the scope `last_prompt` no other token of
the prompt depends on r, so it keeps the keys and values of these tokens and the state of the last one in front of the
first routed layer; with wider scopes it keeps all states in front of that layer. `condition` adds the answer's tokens
up to that layer. An evaluation then runs the kept states and the answer's through the remaining layers.

Prompts are padded on the left, so the last token of every prompt has the same place; answers on the right.

Axis letters: T prompt tokens, R states that are kept (1 or T), A answer tokens, C candidates, L routed layers, E
experts, D width, V vocabulary, J levels of DeepStack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.decoder import KVCache
from ports.common.layers.moe import ExpertChoice
from ports.common.layers.moe_decoder import LayerOutput, MoEDecoder, MoEDecoderConfig
from ports.common.layers.routed_experts import RoutedRows
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.features import (
    LMAnswer,
    LMConditioned,
    LMFeatures,
    Prompt,
    answer_positions,
    answer_rows,
    averaged_rows,
    prompt_rows,
)
from ports.common.moe_lm.routes import alternative_logprobs, prompt_choice, replayed_routes, token_routes
from r2t2_jax.contract import RouteLogprobs, TokenRoutes
from r2t2_jax.routing import TOKEN_CLASSES, Routing, RoutingSpec


class _Encoded(NamedTuple):
    """The features of a prompt, and the experts that were chosen on the way.

    `early` are the choices of all tokens in the layers before the first routed one, `late` those of the tokens before
    `features.states` in the other layers; `None` where there are none.
    """

    features: LMFeatures
    prompt: Prompt
    early: ExpertChoice | None
    late: ExpertChoice | None


@dataclass(frozen=True)
class RoutedLM:
    """The contract's functions on one traced sample. `graph` is the structure of the NNX modules.

    A port with images overrides `decoder` and `embed`.
    """

    config: MoEDecoderConfig
    scope: RoutingScope
    stop_ids: tuple[int, ...]
    graph: Any = field(hash=False)  # follows from config; each call would hash it in 1 ms

    @property
    def spec(self) -> RoutingSpec:
        return self.scope.spec(self.config.experts)

    @property
    def reads_support(self) -> bool:
        """Whether a sample supports fewer experts than all: only these are computed where weights are replaced."""
        return self.scope.core_experts < self.config.experts

    @property
    def first(self) -> int:
        """The first routed layer."""
        return self.scope.layers[0]

    def decoder(self, params: Any) -> MoEDecoder:
        """The decoder with its parameters."""
        return nnx.merge(self.graph, params)

    def embed(self, params: Any, inputs: Any) -> tuple[Prompt, Float[Array, "T D"], Float[Array, "J T D"] | None]:
        """The prompt, the states in front of layer 0, and what DeepStack adds after the first layers."""
        return inputs, self.decoder(params).embed(inputs.tokens), None

    def encode(self, params: Any, inputs: Any) -> LMFeatures:
        """Everything in front of the first routed layer; with `last_prompt` also the other tokens behind it."""
        return self._encode(params, inputs).features

    def _encode(self, params: Any, inputs: Any) -> _Encoded:
        net, first, late = self.decoder(params), self.first, None
        prompt, x, added = self.embed(params, inputs)
        positions, early = prompt.positions, None
        early_choice: ExpertChoice | None = None
        late_choice: ExpertChoice | None = None
        if first > 0:
            x, out = net.run(x, positions, prompt.mask, stop=first, added=None if added is None else added[:first])
            early, early_choice = out.cache, out.choice
        added = added[first:] if added is not None and len(added) > first else None
        rows = prompt_rows(self.scope, prompt)
        if self.scope.single:
            before = None if added is None else added[:, :-1]
            _, out = net.run(x[:-1], positions[:, :-1], prompt.mask[:-1], start=first, added=before)
            late, x, rows, positions = out.cache, x[-1:], rows[-1:], positions[:, -1:]
            late_choice = out.choice
            added = None if added is None else added[:, -1:]
        core = jnp.ones(self.spec.shape, bool)
        features = LMFeatures(x, rows, early, late, prompt.mask, positions, prompt.next_position, added, core)
        if not self.reads_support:
            return _Encoded(features, prompt, early_choice, late_choice)
        _, out = self._run_prompt(net, features, None)
        probabilities = _mean(jax.nn.softmax(self._routed(out.choice.logits).astype(jnp.float32)), rows)
        _, ids = jax.lax.top_k(probabilities, self.scope.core_experts)  # [L, core]
        core = (ids[..., None] == jnp.arange(self.config.experts)[None, None]).any(axis=1)
        return _Encoded(dataclasses.replace(features, core=core), prompt, early_choice, late_choice)

    @property
    def top_k(self) -> int:
        """The number of experts that a gate chooses for a token."""
        return self.config.top_k

    @property
    def token_classes(self) -> tuple[str, ...]:
        """The classes of tokens in a sequence; a port with images has them all."""
        return tuple(name for name in TOKEN_CLASSES if name != "image")

    def steerable(self, layers: Sequence[int]) -> RoutedLM:
        """The same model, which takes a `Routing` of the mode `steer` at every token of these layers and its own."""
        union = tuple(sorted({*layers, *self.scope.layers}))
        scope = RoutingScope(union, self.scope.scope, self.config.experts, steered=True)
        return dataclasses.replace(self, scope=scope)

    def support(self, features: LMFeatures | LMConditioned) -> Bool[Array, "*B L E"]:
        """The sample's core experts."""
        return features.core

    def gate_input(self, params: Any, features: LMFeatures | LMConditioned) -> Float[Array, "D"]:
        """The vector that the gate of the first routed layer reads at the prompt's last token."""
        kept = features.prompt if isinstance(features, LMConditioned) else len(features.states)
        after = len(features.states) - kept  # the answer's rows
        _, out = self.decoder(params).run(
            features.states[:kept], features.positions[:, :kept], features.mask[: len(features.mask) - after],
            start=self.first, stop=self.first + 1, past=features.late,
        )  # fmt: skip
        assert out.read is not None
        return out.read[0]

    def route(self, params: Any, features: LMFeatures, routing: Routing | None = None) -> Float[Array, "L E"]:
        """The combine weights in effect: those of the prompt's last token, or their mean over the re-routed tokens.

        Only with `last_prompt` does replacing them by themselves leave the model unchanged.
        """
        if routing is not None and routing.mode == "replace":
            return routing.values
        _, out = self._run_prompt(self.decoder(params), features, routing)
        return _mean(self._routed(out.weights), averaged_rows(self.scope, features.rows))

    def _routed(self, leaf: Float[Array, "layers T E"]) -> Float[Array, "L T E"]:
        """The entries of the routed layers among those from the first one on."""
        return leaf[jnp.asarray([layer - self.first for layer in self.scope.layers])]

    def _imposed(
        self, routing: Routing | None, rows: Bool[Array, "span"] | Int[Array, "span"] | None, span: int
    ) -> RoutedRows | None:
        if routing is None or span == 0:
            return None
        core = None
        if routing.support is not None and routing.mode == "replace" and self.reads_support:
            _, core = jax.lax.top_k(routing.support.astype(jnp.int32), self.scope.core_experts)  # [L, C]
        return RoutedRows(routing.values, rows, routing.mode, self.scope.layers, span, core=core)

    def whole_routing(self, routing: Routing | None, prompt: Prompt, answer: Bool[Array, "A-1"]) -> RoutedRows | None:
        """The imposed routing of a plain forward pass over prompt and answer; `answer` masks the answer's rows."""
        length = len(prompt.tokens)
        if self.scope.single:
            imposed = self._imposed(routing, None, 1)
            return None if imposed is None else dataclasses.replace(imposed, start=length - 1)
        rows = jnp.concatenate([prompt_rows(self.scope, prompt), answer_rows(self.scope, answer)])
        span = len(rows) if self.scope.answers else length
        return self._imposed(routing, rows[:span], span)

    def _run_prompt(
        self, net: MoEDecoder, features: LMFeatures, routing: Routing | None
    ) -> tuple[Float[Array, "R D"], LayerOutput]:
        kept = len(features.states)
        imposed = self._imposed(routing, None if self.scope.single else features.rows, kept)
        return net.run(
            features.states, features.positions, features.mask, start=self.first,
            past=features.late, routed=imposed, added=features.added,
        )  # fmt: skip

    def condition(self, params: Any, features: LMFeatures | LMConditioned, answer: LMAnswer) -> LMConditioned:
        """The part of a prompt and its answer that does not depend on r, which `answer_loss` takes for the features.

        Conditioned features are returned as they are.
        """
        if isinstance(features, LMConditioned):
            return features
        net, tokens, valid = self.decoder(params), answer.tokens[:-1], answer.mask[:-1]
        x, positions = net.embed(tokens), answer_positions(features, len(tokens))
        mask = jnp.concatenate([features.mask, valid])
        if features.early is not None and len(tokens):
            x, _ = net.run(x, positions, mask, stop=self.first, past=features.early)
        added = features.added
        return LMConditioned(
            states=jnp.concatenate([features.states, x]),
            rows=jnp.concatenate([features.rows, answer_rows(self.scope, valid)]),
            late=features.late,
            mask=mask,
            positions=jnp.concatenate([features.positions, positions], axis=1),
            added=None if added is None else jnp.pad(added, ((0, 0), (0, len(tokens)), (0, 0))),
            core=features.core,
            prompt=len(features.states),
        )

    def answer_loss(
        self, params: Any, features: LMFeatures | LMConditioned, routing: Routing | None, answer: LMAnswer
    ) -> Float[Array, ""]:
        """Mean cross-entropy of the answer's tokens, end of turn included."""
        net, kept = self.decoder(params), self.condition(params, features, answer)
        total, prompt = len(kept.states), kept.prompt
        if total - prompt + 1 != len(answer.tokens):
            raise ValueError(
                f"features of an answer of {total - prompt + 1} tokens, the answer has {len(answer.tokens)}"
            )
        span = 1 if self.scope.single else total if self.scope.answers else prompt
        imposed = self._imposed(routing, None if self.scope.single else kept.rows[:span], span)
        x, _ = net.run(
            kept.states, kept.positions, kept.mask, start=self.first, past=kept.late,
            routed=imposed, added=kept.added,
        )  # fmt: skip
        return mean_loss(net.logits(x[prompt - 1 :]), answer)

    def _prefill(
        self, net: MoEDecoder, features: LMFeatures, routing: Routing | None
    ) -> tuple[Float[Array, "D"], KVCache]:
        """The last token's state after the last layer, and keys and values of the prompt in all layers."""
        return self._prefill_choice(net, features, routing)[:2]

    def _prefill_choice(
        self, net: MoEDecoder, features: LMFeatures, routing: Routing | None
    ) -> tuple[Float[Array, "D"], KVCache, ExpertChoice]:
        """As `_prefill`, and the gates' choices at the kept states, in the layers from the first routed one on."""
        x, out = self._run_prompt(net, features, routing)
        late = out.cache if features.late is None else features.late.followed_by(out.cache)
        return x[-1], late if features.early is None else features.early.below(late), out.choice

    def _continue(
        self, net: MoEDecoder, last: Array, cache: KVCache, features: LMFeatures, routing: Routing | None,
        answer: LMAnswer,
    ) -> Float[Array, "A V"]:  # fmt: skip
        """Log-probabilities at each place of an answer after a prompt that was run already."""
        tokens, valid = answer.tokens[:-1], answer.mask[:-1]
        states = last[None]
        if len(tokens):
            rows = answer_rows(self.scope, valid)
            imposed = self._imposed(routing if self.scope.answers else None, rows, len(tokens))
            mask = jnp.concatenate([features.mask, valid])
            positions = answer_positions(features, len(tokens))
            x, _ = net.run(net.embed(tokens), positions, mask, past=cache, routed=imposed)
            states = jnp.concatenate([states, x])
        return jax.nn.log_softmax(net.logits(states))

    def answer_logprobs(
        self, params: Any, features: LMFeatures, routing: Routing | None, candidates: LMAnswer
    ) -> Float[Array, "C"]:
        """Total log-probability of each candidate; the prompt is run once."""
        net = self.decoder(params)
        last, cache = self._prefill(net, features, routing)

        def total(answer: LMAnswer) -> Float[Array, ""]:
            return _picked(self._continue(net, last, cache, features, routing, answer), answer).sum()

        return jax.vmap(total)(candidates)

    def token_logprobs(
        self, params: Any, features: LMFeatures, routing: Routing | None, answer: LMAnswer
    ) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
        """Log-probability of every token of the vocabulary at each place of the answer, and the answer's mask."""
        net = self.decoder(params)
        last, cache = self._prefill(net, features, routing)
        return self._continue(net, last, cache, features, routing, answer), answer.mask

    def generate(
        self, params: Any, features: LMFeatures, routing: Routing | None, max_new_tokens: int
    ) -> Int[Array, "A"]:
        """Greedy answer tokens, padded with a stop token after the end of the turn."""
        return self.greedy(params, features, routing, max_new_tokens)[0]

    def greedy(
        self, params: Any, features: LMFeatures, routing: Routing | None, max_new_tokens: int
    ) -> tuple[Int[Array, "A"], Float[Array, "A V"]]:
        """Greedy answer tokens and the logits they were chosen by, which are zero after the end of the turn."""
        net = self.decoder(params)
        last, cache = self._prefill(net, features, routing)
        return self._decode(net, last, cache, features, routing, max_new_tokens)[:2]

    def _decode(
        self, net: MoEDecoder, last: Array, cache: KVCache, features: LMFeatures, routing: Routing | None,
        max_new_tokens: int, like: ExpertChoice | None = None,
    ) -> tuple[Int[Array, "A"], Float[Array, "A V"], ExpertChoice | None]:  # fmt: skip
        """Greedy tokens after a prompt that was run, their logits and, with the prompt's choices `like`, theirs."""
        length = len(features.mask)
        cache, stops = cache.padded(length + max_new_tokens), jnp.asarray(self.stop_ids, jnp.int32)
        rows = answer_rows(self.scope, jnp.ones(1, bool)) if self.scope.steered else None
        imposed = self._imposed(routing if self.scope.answers else None, rows, 1)

        def unfinished(carry: Any) -> Array:
            return (carry[0] < max_new_tokens) & ~carry[1]

        def step(carry: Any) -> Any:
            """Choose a token from the state, and run it to the state behind it."""
            number, _, state, tokens, logits, choices, cache = carry
            scores = net.logits(state[None])[0]
            token = scores.argmax().astype(jnp.int32)
            tokens, logits = tokens.at[number].set(token), logits.at[number].set(scores)
            valid = jnp.concatenate([features.mask, jnp.arange(max_new_tokens) <= number])
            positions = jnp.full((3, 1), features.next_position + number)
            x, out = net.run(
                net.embed(token[None]), positions, valid, past=cache, slot=length + number, routed=imposed
            )  # fmt: skip
            if choices is not None:
                choices = jax.tree.map(lambda leaf, new: leaf.at[number].set(new[:, 0]), choices, out.choice)
            return number + 1, (token == stops).any(), x[0], tokens, logits, choices, out.cache

        tokens = jnp.full(max_new_tokens, self.stop_ids[0], jnp.int32)
        logits = jnp.zeros((max_new_tokens, self.config.vocab_size), jnp.float32)
        choices = jax.tree.map(lambda leaf: jnp.zeros((max_new_tokens, *leaf.shape[1:]), leaf.dtype), like)
        start = (jnp.asarray(0), jnp.asarray(False), last, tokens, logits, choices, cache)
        _, _, _, tokens, logits, choices, _ = jax.lax.while_loop(unfinished, step, start)
        return tokens, logits, choices

    @property
    def gated_layers(self) -> tuple[str, ...]:
        """Names of all layers: each has a gate."""
        return tuple(f"layer {i}" for i in range(self.config.layers))

    def record_routes(
        self, params: Any, inputs: Any, max_new_tokens: int, logits: bool = False, routing: Routing | None = None
    ) -> tuple[Int[Array, "A"], TokenRoutes]:
        """The tokens that `generate` returns under this routing, and the routes of prompt and answer."""
        net, encoded = self.decoder(params), self._encode(params, inputs)
        last, cache, choice = self._prefill_choice(net, encoded.features, routing)
        choice = prompt_choice(encoded.early, encoded.late, choice)
        tokens, _, choices = self._decode(net, last, cache, encoded.features, routing, max_new_tokens, choice)
        assert choices is not None  # `_decode` returns choices like the prompt's
        prompt = encoded.prompt
        kinds = jnp.where(prompt.mask, prompt.visual.astype(jnp.int32), -1)
        ran = jnp.concatenate([prompt.tokens, tokens])
        return tokens, token_routes(ran, kinds, self.as_answer(tokens).mask, choice, choices, logits)

    def replay_routes(
        self, params: Any, inputs: Any, answer: LMAnswer, experts: Int[Array, "T+A N k"]
    ) -> tuple[Float[Array, "T+A N k"], Int[Array, "T+A N k"]]:
        """The combine weights of given experts in a pass that uses them, and the ids that the gates would choose."""
        prompt, x, added = self.embed(params, inputs)
        return replayed_routes(self.decoder(params), prompt, x, added, answer, experts)

    def alternative_logprobs(
        self, params: Any, inputs: Any, answer: LMAnswer, targets: Int[Array, "A C"], key: Array, alternatives: int
    ) -> RouteLogprobs:
        """Log-probabilities of targets at each place of a given answer, under routes drawn by Gumbel top-k.

        The routing of a place's token changes in one layer at a time; the layers after it route themselves. All routes
        of a place are rows of one batch.
        """
        prompt, x, added = self.embed(params, inputs)
        return alternative_logprobs(self.decoder(params), prompt, x, added, answer, targets, key, alternatives)

    def as_answer(self, tokens: Int[Array, "A"]) -> LMAnswer:
        """Generated tokens as an answer: up to the first that ends the turn, which is included."""
        ended = (tokens[:, None] == jnp.asarray(self.stop_ids)[None]).any(axis=1)
        return LMAnswer(tokens, jnp.cumsum(ended) - ended == 0)


def _mean(values: Float[Array, "L R E"], rows: Bool[Array, "R"]) -> Float[Array, "L E"]:
    """The mean over the re-routed rows."""
    return jnp.where(rows[None, :, None], values, 0.0).sum(axis=1) / jnp.maximum(rows.sum(), 1)


def mean_loss(logits: Float[Array, "A V"], answer: LMAnswer) -> Float[Array, ""]:
    """Mean cross-entropy of the answer's tokens."""
    return -_picked(jax.nn.log_softmax(logits), answer).sum() / jnp.maximum(answer.mask.sum(), 1)


def _picked(logprobs: Float[Array, "A V"], answer: LMAnswer) -> Float[Array, "A"]:
    """Log-probability of each answer token, zero where padded."""
    picked = jnp.take_along_axis(logprobs, answer.tokens[:, None], axis=1)[:, 0]
    return jnp.where(answer.mask, picked, 0.0)
