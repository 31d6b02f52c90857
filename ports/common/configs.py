"""Configs as frozen dataclasses: from Hugging Face's `config.json`, and from the JSON of a model directory.

A field of an upstream config is one of three kinds (`ConfigFields`). A field that changes the computation is
implemented, or refused by name. A field that is known not to change it is accepted. Any other field is unknown:
`report_unknown` reports all of them in one warning, `model.json` records them, `r2t2 convert --strict` refuses them.
"""

from __future__ import annotations

import json
import logging
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime import typed_json

Config = TypeVar("Config")

logger = logging.getLogger("r2t2")

DTYPES = ("float32", "float16", "bfloat16", "float64")

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
    "rope_scaling": (None,),
    "s2": (False,),
    "sliding_window": (None,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}


MAX_LAYERS = 1000  # a config that states more is wrong, and building it would take hours
MAX_SIZE = 2**31


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        R2T2Error: the file is missing or does not contain a JSON object.
    """
    try:
        return typed_json.read_json(file, dict)
    except R2T2Error as error:
        raise R2T2Error(f"{file} cannot be read ({error}); fetch the checkpoint again") from error


def transformers_4(described: Mapping[str, Any], where: str, unchanged: Collection[str] = ()) -> dict[str, Any]:
    """A config with the names of transformers 4: `rope_theta` for `rope_parameters`, `torch_dtype` for `dtype`.

    `rope_parameters` and `layer_types` stay as they are if `unchanged` names them.

    Raises:
        R2T2Error: it is no object, has other rotary embeddings or layer types, or states both names with two values.
    """
    if not isinstance(described, Mapping):
        raise R2T2Error(f"{where} must be an object, not {described!r}")
    config = dict(described)
    rotary = None if "rope_parameters" in unchanged else config.pop("rope_parameters", None)
    if rotary is not None:
        others = set(rotary) - {"rope_theta", "rope_type"} if isinstance(rotary, Mapping) else {"rope_parameters"}
        if others or rotary.get("rope_type", "default") != "default":
            raise R2T2Error(f"{where}: rope_parameters = {rotary!r}, only the type 'default' is implemented")
        if "rope_theta" in rotary:
            renamed(config, "rope_theta", rotary["rope_theta"], where)
    if config.get("dtype") is not None:
        renamed(config, "torch_dtype", config.pop("dtype"), where)
    kinds = None if "layer_types" in unchanged else config.pop("layer_types", None)
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise R2T2Error(f"{where}: layer_types = {_short(kinds)}, only 'full_attention' is implemented")
    return config


def renamed(config: dict[str, Any], name: str, value: Any, where: str) -> None:
    """Set the field `name` of a config to a value that the config states under another name.

    Raises:
        R2T2Error: the field has another value.
    """
    if config.get(name) not in (None, value):
        raise R2T2Error(f"{where}: {name} is {config[name]!r} and, by its name in transformers 5, {value!r}")
    config[name] = value


def checked_value(where: str, name: str, value: Any, kind: Any) -> Any:
    """A value of a config as the type `kind`. Whole numbers are sizes or ids, other numbers positive and finite.

    Raises:
        R2T2Error: the value has another type or is out of range; the error names the file and the field.
    """
    parsed = typed_json.Json(f"{where}: a value has the wrong type", "", {name: value}, lines=False)
    value = parsed.as_type(dict[str, kind])[name]
    if isinstance(value, int) and not isinstance(value, bool):
        least, most = 0 if name.endswith("_id") else 1, MAX_LAYERS if "layers" in name else MAX_SIZE
        if not least <= value <= most:
            raise R2T2Error(f"{where}: {name} = {value} is not between {least} and {most:,}")
    if isinstance(value, float) and not (math.isfinite(value) and value > 0):
        raise R2T2Error(f"{where}: {name} = {value} is not a positive number")
    return value


def checked_dtype(where: str, value: Any, default: str) -> str:
    """The name of a floating-point dtype that a config states, with or without `torch.`; `default` for null.

    Raises:
        R2T2Error: it is none of float32, float16, bfloat16 and float64.
    """
    name = value.removeprefix("torch.") if isinstance(value, str) else value
    if name is None:
        return default
    if name not in DTYPES:
        raise R2T2Error(f"{where}: dtype {value!r} is none of {', '.join(DTYPES)}")
    return name


def check_heads(where: str, width: int, heads: int, kv_heads: int = 1) -> None:
    """Refuse a width that its heads do not divide, or query heads that the key-value heads do not divide."""
    if width % heads:
        raise R2T2Error(f"{where}: hidden_size {width} is no multiple of num_attention_heads {heads}")
    if heads % kv_heads:
        raise R2T2Error(f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")


def stated_head_width(where: str, described: Mapping[str, Any], taken: Mapping[str, Any]) -> int:
    """The `head_dim` of a config, or else the width divided by the number of heads.

    Raises:
        R2T2Error: the heads do not divide the width, or the key-value heads the heads.
    """
    stated = checked_value(where, "head_dim", described.get("head_dim"), int | None)
    check_heads(where, taken["heads"] if stated else taken["width"], taken["heads"], taken["kv_heads"])
    return stated or taken["width"] // taken["heads"]


@dataclass(frozen=True)
class ConfigFields:
    """A port's knowledge of the fields of an upstream config. `INERT` and `NEUTRAL` apply to every port.

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

    def read(self, described: Mapping[str, Any], kind: type | None = None) -> dict[str, Any]:
        """The values of the taken fields, by the port's names; the values of nested configs are read by themselves.

        Args:
            described: the JSON, with the names of transformers 4 or 5.
            kind: the dataclass whose fields have the port's names, which says their types.

        Raises:
            R2T2Error: a field is missing or has a value that is not implemented; the error lists all of them,
                with the refused fields of nested configs. Or a value has another type, or cannot be a size.
        """
        described = transformers_4(described, self.where, self.inert)
        values = {**self.defaults, **{name: described[name] for name in self.taken if name in described}}
        problems = [
            *(f"no field {name}" for name in self.taken if name not in values),
            *self._refused(described),
        ]
        if problems:
            raise R2T2Error(f"{self.where}: {'; '.join(problems)}")
        kinds = typing.get_type_hints(kind) if kind else {}
        return {
            ours: checked_value(self.where, theirs, values[theirs], kinds.get(ours, Any))
            for theirs, ours in self.taken.items()
        }

    def _refused(self, described: Mapping[str, Any]) -> list[str]:
        """A text for each field whose value is not implemented; those of nested configs as `text_config.name`."""
        refused = [
            f"{name} = {value!r}, only {' or '.join(map(repr, allowed))} is implemented"
            for name, value in described.items()
            if (allowed := self._implemented(name)) and value not in allowed
        ]
        for name, nested in self.nested.items():
            if isinstance(described.get(name), Mapping):
                inner = transformers_4(described[name], f"{self.where}: {name}", nested.inert)
                refused += [f"{name}.{text}" for text in nested._refused(inner)]
        return refused

    def _implemented(self, name: str) -> tuple[Any, ...]:
        """The values of a field that are implemented; empty for a field that may have any value."""
        if name in self.fixed:
            return self.fixed[name]
        own = name in self.taken or name in self.inert or name in self.nested
        return () if own else NEUTRAL.get(name, ())

    def unknown(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """The unknown fields with their values; those of nested configs as `text_config.name`."""
        described = transformers_4(described, self.where, self.inert)
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
        R2T2Error: the fields differ from those of `cls`, or a value has another type.
    """
    try:
        return typed_json.Json("its config", "", described, lines=False).as_type(cls)
    except (R2T2Error, ZeroDivisionError) as error:
        raise R2T2Error(f"this is no {cls.__name__} ({error}); convert the model again") from error
