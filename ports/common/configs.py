"""Configs as frozen dataclasses: from Hugging Face's `config.json`, and from the JSON of a model directory.

A field of an upstream config is one of three kinds (`ConfigFields`). A field that changes the computation is
implemented, or refused by name. A field that is known not to change it is accepted. Any other field is unknown:
`report_unknown` reports all of them in one warning, `model.json` records them, `r2t2 convert --strict` refuses them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from r2t2_jax.errors import R2T2Error

Config = TypeVar("Config")

logger = logging.getLogger("r2t2")

# Fields that any Hugging Face config may have and that no forward pass depends on: bookkeeping of the library,
# training, and the defaults of its `generate`, to which ports pass every setting explicitly.
INERT = {
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_commit_hash",
    "_experts_implementation", "_experts_implementation_internal", "_flash_attn_2_enabled", "_from_model_config",
    "_name_or_path", "_output_attentions", "architectures", "attention_dropout", "attention_probs_dropout_prob",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
    "gradient_checkpointing", "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "length_penalty",
    "max_length", "max_position_embeddings", "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty",
    "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers_version", "typical_p", "use_bfloat16", "use_cache",
}  # fmt: skip

# Fields that change the forward pass of some architecture, with the values that leave it as it is.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "attention_chunk_size": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "compression_config": (None,),
    "final_logit_softcapping": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "mlp_bias": (False,),
    "moe_intermediate_size": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "partial_rotary_factor": (None, 1),
    "position_embedding_type": (None, "absolute"),
    "pruned_heads": (None, {}),
    "qk_layernorm": (False,),
    "quantization_config": (None,),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
    "s2": (False,),
    "sliding_window": (None,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}


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


@dataclass(frozen=True)
class ConfigFields:
    """What a port knows about the fields of an upstream config. `INERT` and `NEUTRAL` apply to every port.

    Args:
        where: name of the file, for errors.
        taken: upstream's field name to the port's.
        defaults: values of fields in `taken` that may be absent, by upstream's name; all others must exist.
        fixed: fields that change the computation, with the values that the port implements; they may be absent.
        inert: fields that do not change this port's computation, or that the port reads by code of its own.
        nested: fields that hold a config of their own, such as `text_config`.
    """

    where: str
    taken: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inert: Collection[str] = ()
    nested: Mapping[str, ConfigFields] = field(default_factory=dict)

    def read(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the taken fields, by the port's names; nested configs are read by themselves.

        Raises:
            R2T2Error: a field is missing or has a value that is not implemented; the error lists all of them.
        """
        values = {**self.defaults, **{name: described[name] for name in self.taken if name in described}}
        problems = [
            *(f"no field {name}" for name in self.taken if name not in values),
            *(
                f"{name} = {value!r}, only {' or '.join(map(repr, allowed))} is implemented"
                for name, value in described.items()
                if (allowed := self._implemented(name)) and value not in allowed
            ),
        ]
        if problems:
            raise R2T2Error(f"{self.where}: {'; '.join(problems)}")
        return {ours: values[theirs] for theirs, ours in self.taken.items()}

    def _implemented(self, name: str) -> tuple[Any, ...]:
        """The values of a field that are implemented; empty for a field that may have any value."""
        if name in self.fixed:
            return self.fixed[name]
        own = name in self.taken or name in self.inert or name in self.nested
        return () if own else NEUTRAL.get(name, ())

    def unknown(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """The unknown fields with their values; those of nested configs as `text_config.name`."""
        known = {*self.taken, *self.fixed, *self.inert, *self.nested, *INERT, *NEUTRAL}
        fields = {name: value for name, value in described.items() if name not in known}
        for name, nested in self.nested.items():
            inner = described.get(name)
            if isinstance(inner, Mapping):
                fields |= {f"{name}.{key}": value for key, value in nested.unknown(inner).items()}
        return fields


def unknown_fields(folder: Path, configs: Mapping[str, ConfigFields]) -> dict[str, dict[str, Any]]:
    """The unknown fields of a checkpoint's folder by file, for files that have any.

    Args:
        folder: of the checkpoint.
        configs: what is known about the files that match each pattern, such as `config.json`; absent files are skipped.
    """
    files = [(file, fields) for pattern, fields in configs.items() for file in sorted(folder.glob(pattern))]
    unknown = {file.relative_to(folder).as_posix(): fields.unknown(read_json(file)) for file, fields in files}
    return {name: fields for name, fields in unknown.items() if fields}


def report_unknown(port: str, unknown: Mapping[str, Mapping[str, Any]], *, strict: bool = False) -> None:
    """Log one warning that names all unknown fields, if there are any.

    Raises:
        R2T2Error: there are unknown fields and `strict` is true.
    """
    if not unknown:
        return
    listed = "; ".join(
        f"{file}: {', '.join(f'{name} = {_short(value)}' for name, value in fields.items())}"
        for file, fields in unknown.items()
    )
    text = f"fields that the port {port} does not know ({listed})"
    if strict:
        raise R2T2Error(f"{text}; convert without --strict if none of them changes the computation")
    logger.warning("%s; if one of them changes the computation, results differ from upstream's", text)


def _short(value: Any) -> str:
    text = " ".join(json.dumps(value, default=str).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


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
