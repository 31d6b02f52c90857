"""Make a port of a checkpoint in Hugging Face's format: `config.json`, `vocab.json` and `model.safetensors`.

    python examples/hf_checkpoint.py out/countries
    r2t2 check examples.hf_checkpoint:load:out/countries --data out/countries/questions.jsonl

The first line writes a tiny language model and its questions, so that nothing is downloaded; `load` reads it as a port
reads a released checkpoint. Each of the four experts knows one relation of countries, such as their capitals. The gate
knows one wording of each question; for the other wording it goes by the name of the country, that is, by chance.
docs/write_a_port.md has the commands for a bank, a diagnosis, an evaluation and its report.

Axis letters: B samples, T tokens, D hidden size, E experts, V words, C candidates.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords
from r2t2_jax.routing import Routing, RoutingSpec

WORDINGS = {  # expert: the wording that the gate knows, and one that it does not know
    "capital": ("what is the capital of", "which city governs"),
    "currency": ("what is the currency of", "what do people pay with in"),
    "language": ("what is the language of", "what do people speak in"),
    "continent": ("what is the continent of", "which part of the world holds"),
}
COUNTRIES = """
france paris euro french europe / japan tokyo yen japanese asia / brazil brasilia real portuguese america
india delhi rupee hindi asia / egypt cairo pound arabic africa / kenya nairobi shilling swahili africa
china beijing yuan mandarin asia / iran tehran rial persian asia / turkey ankara lira turkish asia
peru lima sol spanish america / chile santiago peso spanish america / poland warsaw zloty polish europe
sweden stockholm krona swedish europe / norway oslo krone norwegian europe / cuba havana peso spanish america
denmark copenhagen krone danish europe / hungary budapest forint hungarian europe / thailand bangkok baht thai asia
vietnam hanoi dong vietnamese asia / iraq baghdad dinar arabic asia / greece athens euro greek europe
italy rome euro italian europe / germany berlin euro german europe / spain madrid euro spanish europe
portugal lisbon euro portuguese europe / austria vienna euro german europe / finland helsinki euro finnish europe
ghana accra cedi english africa / nigeria abuja naira english africa / morocco rabat dirham arabic africa
ukraine kyiv hryvnia ukrainian europe / jamaica kingston dollar english america
"""
FACTS = [line.split() for line in COUNTRIES.strip().replace("\n", " / ").split(" / ")]  # country, answer of each expert
END = "<|endoftext|>"


@dataclass(frozen=True)
class Config:
    """The sizes in `config.json`."""

    vocab_size: int
    hidden_size: int
    num_experts: int
    max_position_embeddings: int
    eos_token_id: int

    @classmethod
    def read(cls, folder: Path) -> "Config":
        """The sizes of a checkpoint; keys of other programs are ignored."""
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(**{name: content[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Model:
    """One layer of experts, which read the last token of the prompt; the gate reads the mean of all tokens."""

    config: Config
    spec: RoutingSpec = RoutingSpec(tuple(WORDINGS), layers=1)

    def encode(self, params: Any, inputs: Any) -> Any:
        """The logits of the gate [E], and the votes of each expert for the next word [E, V]."""
        tokens, length = inputs["tokens"], inputs["length"]
        hidden = params["embed_tokens"][tokens]  # [T, D]
        mean = jnp.where(jnp.arange(len(tokens))[:, None] < length, hidden, 0).sum(axis=0) / length
        outputs = jnp.einsum("eij,j->ei", params["experts"], hidden[length - 1])
        return {"gate": params["gate"] @ mean, "votes": outputs @ params["lm_head"].T}

    def route(self, params: Any, features: Any, routing: Routing | None = None) -> jax.Array:
        """The routing weights in effect [1, E]."""
        return jax.nn.softmax(features["gate"])[None] if routing is None else routing.values

    def logprobs(self, params: Any, features: Any, routing: Routing | None) -> jax.Array:
        """Log-probabilities of the next word [V]."""
        return jax.nn.log_softmax(self.route(params, features, routing)[0] @ features["votes"])

    def answer_loss(self, params: Any, features: Any, routing: Routing | None, answer: jax.Array) -> jax.Array:
        """The cross-entropy of an answer of one word."""
        return -self.logprobs(params, features, routing)[answer]

    def generate(self, params: Any, features: Any, routing: Routing | None, max_new_tokens: int) -> jax.Array:
        """The most probable word, then the end of the text."""
        word = self.logprobs(params, features, routing).argmax()
        return jnp.full(max_new_tokens, self.config.eos_token_id).at[0].set(word)

    def answer_logprobs(self, params: Any, features: Any, routing: Routing | None, candidates: jax.Array) -> jax.Array:
        """The log-probability of each candidate [C]."""
        return self.logprobs(params, features, routing)[candidates]

    def as_answer(self, tokens: jax.Array) -> jax.Array:
        """A generated answer as `answer_loss` reads it."""
        return tokens[0]


@dataclass(frozen=True)
class Processor:
    """Words to token ids and back, with the vocabulary of the checkpoint."""

    config: Config
    vocabulary: dict[str, int]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text. Raises `R2T2Error` for a word that the checkpoint does not have."""
        words = text.lower().replace("?", " ").split()
        if unknown := [word for word in words if word not in self.vocabulary]:
            raise R2T2Error(f"{text!r}: the vocabulary has no {unknown[0]!r}; ask with its words")
        return [self.vocabulary[word] for word in words]

    def prepare(self, params: Any, samples: Sequence[Sample]) -> Any:
        """Token ids [B, T], padded with the end of the text, and the number of tokens [B]."""
        tokens = np.full((len(samples), self.config.max_position_embeddings), self.config.eos_token_id)
        length = np.zeros(len(samples), int)
        for i, sample in enumerate(samples):
            ids = self.ids(sample.question)
            if not 0 < len(ids) <= tokens.shape[1]:
                raise R2T2Error(f"{sample.id}: {len(ids)} words; the model reads 1 to {tokens.shape[1]}")
            tokens[i, : len(ids)], length[i] = ids, len(ids)
        return {"tokens": tokens, "length": length}

    def answer_ids(self, answers: Sequence[str]) -> np.ndarray:
        """The ids of answers of one word [B]."""
        return np.array([self.ids(answer)[0] for answer in answers])

    def decode(self, tokens: np.ndarray) -> list[str]:
        """The first word of generated tokens [B, any]."""
        words = {index: word for word, index in self.vocabulary.items()}
        return [words[int(row[0])] for row in tokens]


def load(folder: str | None = None) -> Port:
    """The checkpoint in a folder as a port. Raises `R2T2Error` if it is no checkpoint of this model."""
    if folder is None:
        raise R2T2Error("name the folder of the checkpoint: examples.hf_checkpoint:load:FOLDER")
    path = Path(folder)
    try:
        config = Config.read(path)
        vocabulary = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "model.safetensors")
        experts = [tensors[f"model.layers.0.mlp.experts.{e}.down_proj.weight"] for e in range(config.num_experts)]
        params = {
            "embed_tokens": jnp.asarray(tensors["model.embed_tokens.weight"]),  # [V, D]
            "gate": jnp.asarray(tensors["model.layers.0.mlp.gate.weight"]),  # [E, D]
            "experts": jnp.asarray(np.stack(experts)),  # [E, D, D]
            "lm_head": jnp.asarray(tensors["lm_head.weight"]),  # [V, D]
        }
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise R2T2Error(f"{folder} is no checkpoint of this model ({error}): write one with this file") from error
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()[:16]
    return Port("countries", Model(config), params, Processor(config, vocabulary), HashedBagOfWords(),
                fingerprint=f"countries-{digest}", max_new_tokens=2)  # fmt: skip


def write_checkpoint(folder: Path, seed: int = 0, size: int = 192) -> None:
    """Write a model whose experts are linear maps from countries to answers, and whose gate knows one wording."""
    rng = np.random.default_rng(seed)
    wordings = [wording for pair in WORDINGS.values() for wording in pair]
    words = dict.fromkeys([END, *" ".join(wordings).split(), *(word for fact in FACTS for word in fact)])
    vocabulary = {word: index for index, word in enumerate(words)}
    embeddings = rng.normal(size=(len(words), size)) / np.sqrt(size)

    def embedded(text: str) -> np.ndarray:
        rows: np.ndarray = embeddings[[vocabulary[word] for word in text.split()]]
        return rows

    votes = np.zeros((len(words), len(WORDINGS)))  # of each word for each expert
    for fact in FACTS:  # the gate takes the names of countries for hints, which they are not
        votes[vocabulary[fact[0]]] = rng.normal(scale=12, size=len(WORDINGS))
    for e, name in enumerate(WORDINGS):
        votes[vocabulary[name]] = 36 * np.eye(len(WORDINGS))[e]
    gate = np.linalg.lstsq(embeddings, votes, rcond=None)[0].T
    countries = np.concatenate([embedded(fact[0]) for fact in FACTS])
    tensors = {"model.embed_tokens.weight": embeddings, "lm_head.weight": 10 * embeddings,
               "model.layers.0.mlp.gate.weight": gate}  # fmt: skip
    for e in range(len(WORDINGS)):
        answers = np.concatenate([embedded(fact[e + 1]) for fact in FACTS])
        tensors[f"model.layers.0.mlp.experts.{e}.down_proj.weight"] = np.linalg.lstsq(countries, answers, rcond=None)[
            0
        ].T
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "np"})
    config = {"architectures": ["CountriesForCausalLM"], "model_type": "countries_moe", "vocab_size": len(words),
              "hidden_size": size, "num_experts": len(WORDINGS), "max_position_embeddings": 12,
              "eos_token_id": vocabulary[END], "torch_dtype": "float32"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, indent=1) + "\n", encoding="utf-8")


def write_questions(folder: Path) -> None:
    """Write `questions.jsonl`: both wordings of each fact; the last 12 countries are the test split."""
    lines = []
    for number, (country, *answers) in enumerate(FACTS):
        split = "test" if number >= len(FACTS) - 12 else "reference"
        for (relation, wordings), answer in zip(WORDINGS.items(), answers, strict=True):
            for wording in wordings:
                question = {"question": f"{wording} {country}", "answer": answer, "category": relation, "split": split}
                lines.append(json.dumps(question))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "out/countries")
    write_checkpoint(target)
    write_questions(target)
    print(f"Wrote a checkpoint and questions to {target}.")
