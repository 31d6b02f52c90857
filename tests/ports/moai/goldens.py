"""Recorded MoAI: config, model and inputs of a golden, and its rows in the model's order."""

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.common.checkpoint.mapping import assemble
from ports.moai.batch import MoAIAnswer, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.modeling import MoAINet, abstract
from ports.moai.params import leaves


def config_of(described: dict[str, Any], **changes: Any) -> MoAIConfig:
    """The config of a golden's json."""
    dims, clip, llm = described["dims"], described["clip"], described["llm"]
    config = MoAIConfig(
        width=llm["hidden_size"],
        hidden=llm["intermediate_size"],
        layers=llm["num_hidden_layers"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        vocab_size=llm["vocab_size"],
        max_positions=llm["max_position_embeddings"],
        rms_eps=llm["rms_norm_eps"],
        rope_theta=float(llm["rope_theta"]),
        mixer_every=dims["mixer_every"],
        plora_rank=dims["plora_r"],
        plora_alpha=float(dims["plora_alpha"]),
        expert_rank=dims["expert_rank"],
        expert_heads=dims["expert_heads"],
        image_size=described["input_image_size"],
        patch_size=clip["patch_size"],
        vision_width=clip["hidden_size"],
        vision_hidden=clip["intermediate_size"],
        vision_layers=clip["num_hidden_layers"],
        vision_heads=clip["num_attention_heads"],
        compressor_depth=dims["pr_depth"],
        compressor_heads=dims["pr_heads"],
        compressor_head_size=dims["pr_dim_head"],
        compressor_latents=dims["pr_latents"],
        compressor_ff_mult=dims["pr_ff_mult"],
        bos_id=llm["bos_token_id"],
        eos_id=llm["eos_token_id"],
        pad_id=llm["pad_token_id"],
        image_id=described["image_token_index"],
        end_id=llm["eos_token_id"],
        stop_ids=(llm["eos_token_id"],),
        **changes,
    )
    assert list(config.mixer_layers) == described["mixer_layers"]
    return config


@dataclass(frozen=True)
class Golden:
    """One recorded configuration."""

    path: Path
    config: MoAIConfig
    arrays: dict[str, np.ndarray]
    described: dict[str, Any]

    @property
    def cases(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.arrays if name.startswith("in/")})

    def net(self, **changes: Any) -> MoAINet:
        """The model with the recorded weights."""
        tensors = {name.removeprefix("w/"): value for name, value in self.arrays.items() if name.startswith("w/")}
        config = config_of(self.described, **changes)
        graph, shapes = abstract(config)
        return nnx.merge(graph, assemble(leaves(config), tensors.__getitem__, shapes))


@cache
def read_golden(path: Path) -> Golden:
    described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return Golden(path, config_of(described), arrays, described)


@dataclass(frozen=True)
class Rows:
    """All recorded rows of a file as one batch: every case, language mask and row, padded on the left to one length.

    `slots[b, s]` is the recorded slot of the model's row s, `real[b, s]` is False where it is padding, and
    `targets[b, s]` is the token to predict there, -100 for none.
    """

    keys: list[tuple[str, str, int]]
    inputs: MoAIInputs
    slots: np.ndarray
    real: np.ndarray
    targets: np.ndarray


@cache
def _rows_of(path: Path) -> Rows:
    golden = read_golden(path)
    arrays, images = golden.arrays, golden.config.image_tokens
    length = max(arrays[f"in/{case}/input_ids"].shape[1] for case in golden.cases) - 1
    verbal = max(arrays[f"in/{case}/verb_ids"].shape[1] for case in golden.cases)
    keys, inputs, slots, targets = [], [], [], []
    for case in golden.cases:
        ids, labels = arrays[f"in/{case}/input_ids"], arrays[f"in/{case}/labels"]
        attention = arrays[f"out/{case}/prompt/learned/merged_attention_mask"]
        for mode in ("prompt", "all"):
            for row in range(len(ids)):
                keys.append((case, mode, row))
                inputs.append(padded(case_inputs(golden, case, mode, row), length, verbal))
                words = row_slots(golden.config, ids[row])
                words = np.concatenate([words[:images], np.zeros(length + images - len(words), int), words[images:]])
                slots.append(words)
                next_tokens = np.append(np.where(attention[row, 1:] == 1, labels[row, 1:], -100), -100)
                targets.append(
                    np.where(np.arange(len(words)) < len(words) - len(ids[row]) + 1, -100, next_tokens[words])
                )
    batch = stacked(inputs)
    real = np.concatenate([np.ones((len(keys), images), bool), np.asarray(batch.mask)], axis=1)
    return Rows(keys, batch, np.stack(slots), real, np.stack(targets))


def rows_of(golden: Golden) -> Rows:
    return _rows_of(golden.path)


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def padded(inputs: MoAIInputs, length: int, verbal: int) -> MoAIInputs:
    """The inputs padded on the left; the padding is masked."""
    changes = {}
    for name, total in (
        ("tokens", length),
        ("mask", length),
        ("language", length),
        ("before_image", length),
        ("verbalization", verbal),
        ("verbalization_mask", verbal),
    ):
        value = getattr(inputs, name)
        changes[name] = jnp.pad(value, (total - value.shape[0], 0), constant_values=name == "before_image")
    return dataclasses.replace(inputs, **changes)


def _answers(golden: Golden, rows: Rows) -> list[np.ndarray]:
    answers = []
    for case, _, row in rows.keys:
        labels = golden.arrays[f"in/{case}/labels"][row]
        answers.append(labels[labels != -100])
    return answers


def answers_of(golden: Golden, rows: Rows) -> MoAIAnswer:
    answers = _answers(golden, rows)
    longest = max(map(len, answers))
    tokens = np.stack([np.pad(answer, (0, longest - len(answer))) for answer in answers])
    return MoAIAnswer(jnp.asarray(tokens), jnp.asarray([np.arange(longest) < len(answer) for answer in answers]))


def prompts_of(golden: Golden, rows: Rows) -> MoAIInputs:
    """The rows without their answers at the end; the padding on the left grows by the same length."""
    changes = {}
    counts = [len(answer) for answer in _answers(golden, rows)]
    for name, filling in (("tokens", 0), ("mask", False), ("language", False), ("before_image", True)):
        values = np.asarray(getattr(rows.inputs, name))
        changes[name] = jnp.asarray(
            np.stack([np.append(np.full(n, filling), row[:-n]) for row, n in zip(values, counts, strict=True)])
        ).astype(values.dtype)
    return dataclasses.replace(rows.inputs, **changes)


def text_inputs(
    config: MoAIConfig, ids: np.ndarray, attention: np.ndarray, language: np.ndarray, **rest: Any
) -> MoAIInputs:
    """Inputs of one recorded row: `ids` hold one image token, `language` covers the merged sequence."""
    image = int(np.flatnonzero(ids == config.image_id)[0])
    words = np.delete(np.arange(len(ids)), image)
    slots = np.where(words < image, words, words + config.image_tokens - 1)
    size = (config.image_size, config.image_size)
    arrays = {
        "image": np.zeros((*size, 3), np.uint8),
        "segments": np.zeros(size, np.uint8),
        "verbalization": np.zeros(1, np.int32),
        "verbalization_mask": np.ones(1, bool),
    } | rest
    return MoAIInputs(
        tokens=jnp.asarray(ids[words]),
        mask=jnp.asarray(attention[words] == 1),
        before_image=jnp.asarray(words < image),
        language=jnp.asarray(language[slots]),
        **{name: jnp.asarray(value) for name, value in arrays.items()},
    )


def row_slots(config: MoAIConfig, ids: np.ndarray) -> np.ndarray:
    """For each row of the model, image first, its slot in the recorded sequence."""
    image = int(np.flatnonzero(ids == config.image_id)[0])
    words = np.delete(np.arange(len(ids)), image)
    after = np.where(words < image, words, words + config.image_tokens - 1)
    return np.concatenate([image + np.arange(config.image_tokens), after])


def case_inputs(golden: Golden, case: str, mode: str, row: int) -> MoAIInputs:
    """Inputs of one row of a recorded case; the padding of the verbalization is not masked, as in upstream."""
    arrays = {
        name.removeprefix(f"in/{case}/"): value[row]
        for name, value in golden.arrays.items()
        if name.startswith(f"in/{case}/")
    }
    return text_inputs(
        golden.config,
        arrays["input_ids"],
        arrays["attention_mask"],
        arrays[f"lang_mask_{mode}"],
        image=arrays["image_uint8"].transpose(1, 2, 0),
        segments=arrays["seg_ids"].astype(np.uint8),
        verbalization=arrays["verb_ids"],
        verbalization_mask=np.ones(arrays["verb_ids"].shape, bool),
    )
