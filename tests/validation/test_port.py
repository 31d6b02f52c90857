"""Every slip of a port is found by a check that names it, before references are collected or questions encoded."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2t2_jax.validation.port as port_checks
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.encode import prepare_questions
from r2t2_jax.validation.port import check_shapes, depends_on_first_input, run_checks
from tests.toy_port import SPEC, WORDS, ToyEmbedder, ToyModel, ToyProcessor, make_samples, toy

SAMPLES = make_samples(3, seed=5, hinted=0.5)


@dataclass(frozen=True)
class Slip(ToyModel):
    """The toy model with one slip."""

    slip: str = ""

    def route(self, params: Any, features: Any, routing: Any = None) -> Any:
        weights = super().route(params, features, routing)
        return {
            "per token": jnp.repeat(weights[:, None], 8, axis=1),
            "tokens of one layer": jnp.repeat(weights[:1], 8, axis=0),
            "experts": weights[:, :2],
            "one row": weights[0],
            "batch": weights[None],
            "negative": weights - 0.5,
        }.get(self.slip, weights)

    def answer_loss(self, params: Any, features: Any, routing: Any, answer: Any) -> Any:
        loss = super().answer_loss(params, features, None if self.slip == "ignores" else routing, answer)
        if self.slip == "none" and routing.values is not None:
            return loss
        if self.slip == "numpy":
            return np.log(np.asarray(loss))
        if self.slip == "times zero" and routing is not None:
            return super().answer_loss(params, features, None, answer) + 0 * routing.values.sum()
        return jnp.stack([loss] * 3) if self.slip == "vector" else loss

    def support(self, features: Any) -> Any:
        mask = jnp.ones((*features["gate"].shape[:-1], *SPEC.shape), bool)
        if self.slip == "support of one":
            return jnp.ones(SPEC.shape, bool)
        return (
            mask.astype(float)
            if self.slip == "support of floats"
            else mask[..., :2]
            if self.slip == "support"
            else mask
        )

    def generate(self, params: Any, features: Any, routing: Any, max_new_tokens: int) -> Any:
        tokens = super().generate(params, features, routing, max_new_tokens)
        return {"odds": tokens / 1.0, "long": jnp.concatenate([tokens, tokens])}.get(self.slip, tokens)

    def answer_logprobs(self, params: Any, features: Any, routing: Any, candidates: Any) -> Any:
        logprobs = super().answer_logprobs(params, features, routing, candidates)
        return logprobs.sum() if self.slip == "sum" else logprobs


class Shifted(ToyProcessor):
    """A processor that reads words as other tokens than those it writes."""

    def answer_ids(self, answers: Any) -> Any:
        return (super().answer_ids(answers) + 1) % len(WORDS)


class OfTheBatch(ToyProcessor):
    """A processor whose inputs depend on the batch."""

    def prepare(self, params: Any, samples: Any) -> Any:
        inputs = super().prepare(params, samples)
        return inputs | {"question": (inputs["question"] + len(samples)) % 3, "pixels": inputs["pixels"] | 1}


class Rows(ToyProcessor):
    """A processor that gives answers without a leading axis."""

    def answer_ids(self, answers: Any) -> Any:
        return np.array(0)


class Long(ToyEmbedder):
    """An embedder of vectors of length 2."""

    def embed(self, texts: Any) -> Any:
        return 2 * super().embed(texts)


class Listed(ToyEmbedder):
    """An embedder of lists."""

    def embed(self, texts: Any) -> Any:
        return super().embed(texts).tolist()


class Uncut(ToyProcessor):
    """A processor that writes the end-of-turn token too."""

    def decode(self, tokens: Any) -> Any:
        return [f"{text}<end>" for text in super().decode(tokens)]

    def answer_ids(self, answers: Any) -> Any:
        return super().answer_ids(answers)


class Endless(Shifted):
    """A processor of a model whose answers never end: their text has as many words as there are tokens."""

    def decode(self, tokens: Any) -> Any:
        return [" ".join([text] * tokens.shape[1]) for text in super().decode(tokens)]

    def answer_ids(self, answers: Any) -> Any:
        return super().answer_ids([answer.split()[0] for answer in answers])


class Lists(ToyProcessor):
    """A processor whose inputs are lists."""

    def prepare(self, params: Any, samples: Any) -> Any:
        return {"gate": [0] * len(samples)}


def port_with(slip: str) -> Port:
    parts = {
        "shifted": Shifted(),
        "of the batch": OfTheBatch(),
        "rows": Rows(),
        "lists": Lists(),
        "endless": Endless(),
        "uncut": Uncut(),
    }
    port = dataclasses.replace(toy(), model=Slip(slip=slip), processor=parts.get(slip, ToyProcessor()))
    if slip == "text in params":
        return dataclasses.replace(port, params=port.params | {"name": "toy"})
    embedders = {"long vectors": Long(), "listed vectors": Listed()}
    return dataclasses.replace(port, embedder=embedders[slip]) if slip in embedders else port


TRACED = [
    ("per token", r"route returns per-token gates \[2, 8, 3\], 8 tokens; .*average the gates over the tokens"),
    (
        "tokens of one layer",
        r"route returns per-token gates \[8, 3\], 8 tokens; it must return \[2 layers, 3 experts\].*layers=8\)",
    ),
    ("experts", r"route returns float32\[2, 2\]; it must return \[2 layers, 3 experts\], a weight per expert: left"),
    ("one row", r"route returns \[3\]; it must return \[2 layers, 3 experts\], a row per layer"),
    ("batch", r"route returns \[1, 2, 3\]; .* of one sample without a batch axis"),
    ("support", r"support returns bool\[2, 2\]; it must return \[2 layers, 3 experts\]"),
    ("support of floats", "support returns float32; it must return true"),
    ("support of one", r"support returns \[2, 3\] for the features of 2 samples"),
    ("ignores", "answer_loss does not depend on the routing weights: it never reads them"),
    ("none", "answer_loss fails with routing=None, which stands for the gate's own weights .*'NoneType'"),
    ("numpy", "answer_loss fails with TracerArrayConversionError: .*; NumPy cannot .* traced arrays: use jax.numpy"),
    ("lists", r"prepare: inputs\['gate'\]\[0\] is of type int; give a NumPy or JAX array"),
    ("vector", r"answer_loss returns float32\[3\]; it must return one number"),
    ("odds", r"generate returns float32\[2\]; it must return the tokens of one answer"),
    ("long", "generate returns 4 tokens; max_new_tokens is 2"),
    ("sum", r"answer_logprobs returns float32\[\] for 3 candidates"),
    ("rows", r"answer_ids has shape \(\); its leading axis must count the 3 samples"),
    ("long vectors", "must be unit vectors; row 0 has length 2"),
    ("listed vectors", "question embeddings is of type list; give a NumPy or JAX array"),
    ("text in params", r"params\['name'\] is of type str; params holds arrays"),
]


@pytest.mark.parametrize(("slip", "cause"), TRACED, ids=[slip for slip, _ in TRACED])
def test_a_slip_is_named_without_running_the_model(slip: str, cause: str) -> None:
    *passed, last = check_shapes(port_with(slip), SAMPLES)
    with pytest.raises(R2T2Error, match=cause):
        raise R2T2Error(last.problem)
    assert not [check for check in passed if check.problem]


@pytest.mark.parametrize(
    ("slip", "cause"),
    [
        ("negative", "route must return shares of the experts, such as the softmax of the gate's logits"),
        ("times zero", "answer_loss does not depend on the routing weights: the loss is the same at"),
        ("uncut", "answer_ids cannot read the answers that decode returns, '"),
        ("shifted", "as answer_ids reads its text: both must give the same tokens"),
        ("of the batch", "differ between a batch of one and one of 3"),
    ],
)
def test_a_slip_in_numbers_is_named(slip: str, cause: str) -> None:
    last = run_checks(port_with(slip), SAMPLES)[-1]
    assert cause in last.problem


def test_a_port_is_checked_once_at_its_first_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_checks, "_TRACED", set())
    with pytest.raises(R2T2Error, match=r"toy: route returns per-token gates .*\(r2t2 check tests a port\)"):
        prepare_questions(port_with("per token"), SAMPLES)
    monkeypatch.setattr(port_checks, "check_shapes", lambda port, samples: calls.append(port) or [])
    calls: list[Port] = []
    for _ in range(2):
        prepare_questions(port_with(""), SAMPLES)
    assert len(calls) == 1


def test_an_error_in_a_method_is_named_with_the_method() -> None:
    class Failing(ToyProcessor):
        def prepare(self, params: Any, samples: Any) -> Any:
            raise KeyError("pixels")

    last = check_shapes(dataclasses.replace(toy(), processor=Failing()), SAMPLES)[-1]
    assert last.problem == "prepare fails with KeyError: 'pixels'"


def test_an_answer_that_is_cut_is_no_slip() -> None:
    results = {check.name: check for check in run_checks(port_with("endless"), SAMPLES)}
    assert results["round trip"].result == "not checked, the answers are longer than max_new_tokens, 2"
    assert not [check for check in results.values() if check.problem]


def test_a_port_may_have_parameters_in_numpy() -> None:
    port = toy()
    indexed = dataclasses.replace(port, params=jax.tree.map(np.asarray, port.params))
    assert not [check for check in run_checks(indexed, SAMPLES) if check.problem]


def test_jit_hides_no_dependence() -> None:
    used = jax.make_jaxpr(jax.jit(lambda w, x: (w * x).sum()))(1.0, 2.0)
    unused = jax.make_jaxpr(jax.jit(lambda w, x: jax.jit(lambda a, b: b * 2)(w + 1, x)))(1.0, 2.0)
    assert depends_on_first_input(used.jaxpr)
    assert not depends_on_first_input(unused.jaxpr)


def test_the_command_reports_each_check(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tests.toy_port:toy"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  prepare          prepare fails with ValueError: " in out and "--data FILE.jsonl" in out
    assert out.endswith("toy: a check failed; the others depend on it\n")
    assert main(["check", "tests.toy_port:nothing"]) == 2
