"""Configs as frozen dataclasses: from Hugging Face's `config.json`, and from the JSON of a model directory."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from r2t2_jax.errors import R2T2Error

Config = TypeVar("Config")

# Fields that any Hugging Face config may have and that no forward pass depends on.
BOOKKEEPING = {
    "_name_or_path", "_attn_implementation_autoset", "_commit_hash", "add_cross_attention", "architectures",
    "attention_dropout", "attention_probs_dropout_prob", "auto_map", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "hidden_dropout_prob", "id2label",
    "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "max_length",
    "max_position_embeddings", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "problem_type", "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p",
    "torch_dtype", "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
}  # fmt: skip


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        R2T2Error: the file is missing or does not contain a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise R2T2Error(f"{file} holds no JSON object")
    return content


def take(
    described: Mapping[str, Any],
    taken: Mapping[str, str],
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: Collection[str],
    where: str,
) -> dict[str, Any]:
    """The fields of a `config.json` that a port uses; unknown fields are refused, and the error lists all of them.

    Args:
        described: the JSON.
        taken: upstream's field name to the config's; all must exist.
        fixed: fields with the values that are implemented; they may be absent.
        ignored: fields that nothing depends on, in addition to `BOOKKEEPING`.
        where: name of the file, for the error.

    Raises:
        R2T2Error: a field is unknown, missing or has a value that is not implemented.
    """
    problems = [
        *(f"unknown field {name}" for name in described if name not in {*taken, *fixed, *ignored, *BOOKKEEPING}),
        *(f"no field {name}" for name in taken if name not in described),
        *(
            f"{name} = {described[name]!r}, only {' or '.join(map(repr, values))} is implemented"
            for name, values in fixed.items()
            if name in described and described[name] not in values
        ),
    ]
    if problems:
        raise R2T2Error(f"{where}: {'; '.join(problems)}")
    return {ours: described[theirs] for theirs, ours in taken.items()}


def config_from_json(cls: type[Config], described: Mapping[str, Any]) -> Config:
    """A frozen dataclass from the JSON of its `dataclasses.asdict`, with nested dataclasses and tuples.

    Raises:
        R2T2Error: the fields differ from those of `cls`.
    """
    kinds = typing.get_type_hints(cls)
    try:
        return cls(**{name: _typed(kinds[name], value) for name, value in described.items()})
    except (KeyError, TypeError) as error:
        raise R2T2Error(f"this is no {cls.__name__} ({error}); convert the model again") from error


def _typed(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return config_from_json(kind, value)
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, list) else value
