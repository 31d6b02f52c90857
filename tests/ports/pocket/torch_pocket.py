"""The pocket model's r-dependent forward pass in PyTorch, and two ways to descend on it.

It starts from the features of `PocketModel.encode` with the shipped weights: a second implementation to compare numbers
and time with. `one_by_one` is the pattern of the authors' code: a Python loop over samples, steps and neighbors, one
forward pass each, autograd with respect to r. `together` is written for speed in PyTorch: samples and neighbors are one
batch, everything that does not depend on r is prepared before the loop, and no weight requires a gradient.

Axis letters: B test samples, K neighbors, N = B x K passes, L mixers, E experts, T question tokens, I image cells,
W channel, D width, H heads, A answer tokens, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BEGIN, HEADS = 2, 4  # of the shipped model; they cannot be read from its arrays


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


@dataclass(frozen=True)
class Neighbors:
    """Features and answers of N forward passes; keys and values of the question are split into heads once."""

    stream: Tensor  # [N, I, W]
    first: Tensor  # [N, E, I, W]
    keys: Tensor  # [N, L, E, I, Q]
    values: Tensor  # [N, L, E, I, W]
    question_keys: Tensor  # [N, depth, H, T, D / H]
    question_values: Tensor  # [N, depth, H, T, D / H]
    image_mask: Tensor  # [N, 1, 1, T + I]
    answer_mask: Tensor  # [N, 1, A, T + I + A]
    read: Tensor  # [N, A, D], embedded tokens before each answer token
    tokens: Tensor  # [N, A]
    counted: Tensor  # [N, A], one where a token counts


def split(x: Tensor) -> Tensor:
    """[..., T, D] to [..., H, T, D / H]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


class TorchPocket:
    """Forward passes of the shipped weights."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self.weights = {name: torch.from_numpy(np.array(leaf)) for name, leaf in weights.items()}
        self.depth = sum(name.startswith("blocks/") and name.endswith("/o_proj/kernel") for name in weights)
        self.mixers = sum(name.startswith("mixers/") and name.endswith("/scale") for name in weights)

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = x @ self.weights[f"{name}/kernel"]
        bias = self.weights.get(f"{name}/bias")
        return y if bias is None else y + bias

    def neighbors(self, features: Mapping[str, np.ndarray], tokens: np.ndarray, mask: np.ndarray) -> Neighbors:
        """Everything that does not depend on r; arrays have a leading axis N."""
        of = {name: torch.from_numpy(np.array(leaf)) for name, leaf in features.items()}
        answer, counted = torch.from_numpy(np.array(tokens)).long(), torch.from_numpy(np.array(mask))
        n, length = answer.shape
        cells = of["stream"].shape[1]
        context = torch.cat([of["question_mask"], torch.ones(n, cells, dtype=torch.bool)], 1)[:, None, None]
        causal = torch.ones(length, length, dtype=torch.bool).tril().expand(n, 1, -1, -1)
        before = torch.cat([torch.full((n, 1), BEGIN), answer[:, :-1]], 1)
        return Neighbors(
            of["stream"],
            of["first"],
            of["keys"],
            of["values"],
            split(of["question_keys"]),
            split(of["question_values"]),
            context,
            torch.cat([context.expand(-1, -1, length, -1), causal], -1),
            self.weights["embed_tokens"][before] + self.weights["answer_position_embedding"][:length],
            answer,
            counted.float(),
        )

    def run_experts(self, layer: int, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each expert's output for every cell, [N, E, I, W]."""
        name = f"mixers/{layer}"
        query = rms_norm(x)[:, None] @ self.weights[f"{name}/q_proj"]  # [N, E, I, Q]
        prior = self.weights[f"{name}/prior"][:, None, None] * torch.eye(x.shape[1])
        return F.softmax(query @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5 + prior, -1) @ values

    def combine_experts(self, near: Neighbors, r: Tensor) -> Tensor:
        """The image stream after all mixers, [N, I, W]."""
        x = near.stream
        for layer in range(self.mixers):
            first = layer == 0
            outputs = near.first if first else self.run_experts(layer, x, near.keys[:, layer], near.values[:, layer])
            x = x + self.weights[f"mixers/{layer}/scale"] * (r[:, layer, :, None, None] * outputs).sum(1)
        return rms_norm(x)

    def keys_values(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.linear(f"blocks/{number}/kv_proj", rms_norm(x)).chunk(2, -1)
        return split(keys), split(values)

    def block(self, number: int, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        name = f"blocks/{number}"
        query = split(self.linear(f"{name}/q_proj", rms_norm(x)))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        x = x + self.linear(f"{name}/o_proj", attended.transpose(-2, -3).flatten(-2))
        return x + self.linear(f"{name}/down_proj", gelu(self.linear(f"{name}/up_proj", rms_norm(x))))

    def losses(self, near: Neighbors, r: Tensor) -> Tensor:
        """Mean cross-entropy of each answer under its routing [N, L, E]; unused states are not computed."""
        x = self.linear("project_out", gelu(self.linear("project_in", self.combine_experts(near, r))))
        x = x + self.weights["image_position_embedding"]  # [N, I, D]
        answer = near.read
        for number in range(self.depth):
            key, value = self.keys_values(number, x)
            keys = torch.cat([near.question_keys[:, number], key], -2)
            values = torch.cat([near.question_values[:, number], value], -2)
            if number < self.depth - 1:
                x = self.block(number, x, keys, values, near.image_mask)
            key, value = self.keys_values(number, answer)
            keys, values = torch.cat([keys, key], -2), torch.cat([values, value], -2)
            answer = self.block(number, answer, keys, values, near.answer_mask)
        logits = self.linear("lm_head", rms_norm(answer))
        entropy = F.cross_entropy(logits.flatten(0, 1), near.tokens.flatten(), reduction="none")
        return (entropy.view_as(near.counted) * near.counted).sum(1) / near.counted.sum(1)


def project_simplex(values: Tensor) -> Tensor:
    """Nearest point whose rows are non-negative and sum to one."""
    ordered = values.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    rank = torch.arange(1, values.shape[-1] + 1)
    count = (ordered * rank > excess).sum(-1, keepdim=True)
    return (values - excess.gather(-1, count - 1) / count).clamp(min=0)


def one_by_one(
    net: TorchPocket, near: Sequence[Sequence[Neighbors]], routing: Tensor, weights: Tensor, rates: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Final r [B, L, E] and the losses before each step [B, S]; `near` has a batch of one for each neighbor."""
    routings, paths = [], []
    for r, neighbors, weight in zip(routing, near, weights, strict=True):
        losses = []
        for rate in rates:
            r = r.detach().requires_grad_()
            total = torch.zeros(())
            for neighbor, share in zip(neighbors, weight / weight.sum(), strict=True):
                total = total + share * net.losses(neighbor, r[None])[0]
            total.backward()
            assert r.grad is not None
            r = project_simplex(r.detach() - rate * r.grad)
            losses.append(total.detach())
        routings.append(r)
        paths.append(torch.stack(losses))
    return torch.stack(routings), torch.stack(paths)


def together(
    net: TorchPocket, near: Neighbors, routing: Tensor, weights: Tensor, rates: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The same, with all samples and neighbors in one batch."""
    r, losses = routing, []
    shares = weights / weights.sum(1, keepdim=True)
    for rate in rates:
        r = r.detach().requires_grad_()
        spread = r[:, None].expand(-1, weights.shape[1], -1, -1).flatten(0, 1)  # [N, L, E]
        loss = (shares * net.losses(near, spread).view_as(shares)).sum(1)  # [B]
        (gradient,) = torch.autograd.grad(loss.sum(), r)
        r = project_simplex(r.detach() - rate * gradient)
        losses.append(loss.detach())
    return r, torch.stack(losses, 1)
