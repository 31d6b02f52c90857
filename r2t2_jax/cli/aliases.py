"""Other names of options, values in lists, and options of lm-eval: typed words to the words that the parser reads."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from r2t2_jax.cli.options import UsageError, flag
from r2t2_jax.errors import R2T2Error

ALIASES: Mapping[str, tuple[str, ...]] = {  # by the name of the option, in every command that has it
    "data": ("tasks", "benchmark", "dataset"),
    "against": ("data", "tasks", "benchmark", "dataset"),
    "limit": ("samples", "n", "questions"),
    "out": ("output_path",),
    "map_folder": ("from",),
    "strength": ("lambda",),
}
ALWAYS = {"log_samples": ("demo", "eval", "reproduce", "tune")}  # switches for what these commands do in any case
NAMES = {"eval": ("strategy", "answer_steps")}  # by command: options that hold names separated by commas
ELSEWHERE = {  # options of lm-eval, and what takes their place
    "model_args": "options of a model follow its name: --model moai:DIR,aux=STORE",
    "device": "JAX chooses the device (JAX_PLATFORMS=cpu for the CPU), and --mesh divides a model over several",
    "gen_kwargs": "--beams and --max-new-tokens set the decoding",
    "verbosity": "-v prints more, and -q results and errors only",
    "use_cache": "the same command with the same --out resumes, and answers nothing again",
    "apply_chat_template": "the chat template of a model's checkpoint is always applied",
    "predict_only": "runs store the answers; r2t2 score scores them by another metric",
    "wandb_args": "r2t2 export RUN --wandb PROJECT (or --trackio) logs the summary of a run",
    "num_fewshot": "questions are asked without examples; references of a bank take their place",
}
KEPT = "--keep is the number of correctly answered references of a set"
FORMER_VALUES = {  # refused, by command and option
    ("bank build", "--keep", "all"): f"{KEPT}; without --only-correct all references up to it are stored",
    ("bank build", "--keep", "correct"): f"{KEPT}; pass --only-correct to store only these",
}


def other_names(name: str, command: type) -> dict[str, str]:
    """The options by their other names, without dashes, and the switches without effect by their own.

    Args:
        name: the command.
        command: its dataclass.
    """
    fields = {field.name for field in dataclasses.fields(command)}
    names = {alias: option for option in ALIASES if option in fields for alias in ALIASES[option]}
    names |= {switch: "" for switch, commands in ALWAYS.items() if name in commands}
    return {alias: option for alias, option in names.items() if alias not in fields}


def parser_words(name: str, command: type, words: Sequence[str]) -> list[str]:
    """The words with each option under its own name, and each value of a list as a word.

    Lists are separated by commas, blanks or both.

    Args:
        name: the command.
        command: its dataclass.
        words: after the command, with known options only.

    Raises:
        UsageError: an option is given under two names, a list has no element, or a value is a former one.
        R2T2Error: an element of a list is empty.
    """
    aliases = {flag(alias): option and flag(option) for alias, option in other_names(name, command).items()}
    joined = {flag(option) for option in NAMES.get(name, ())}
    lists = joined | {flag(option) for option, kind in get_type_hints(command).items() if is_list(kind)}
    groups = list(_groups(words, aliases))
    for first, second in itertools.combinations([group for group in groups if group.option], 2):
        if first.option == second.option and first.typed != second.typed:
            raise UsageError(f"{first.typed} and {second.typed} are names of one option: give one of them")
    result, elements = [], dict[str, list[str]]()
    for group in groups:
        for value in group.values[:1]:
            if (name, group.option, value) in FORMER_VALUES:
                raise UsageError(FORMER_VALUES[name, group.option, value])
        if group.option in lists:
            elements[group.option] = _elements(group.typed, group.values)  # the last one overrides
        elif group.equals:
            result += [f"{group.option}={group.values[0]}", *group.values[1:]]
        else:
            result += [*filter(None, [group.option]), *group.values]
    for option, values in elements.items():
        if not values:
            raise UsageError(f"{option} needs a value; r2t2 {name} --help lists the options")
        result += [option, *([",".join(values)] if option in joined else values)]
    return result


def is_list(kind: Any) -> bool:
    """Whether an option of this type takes several words."""
    return any(get_origin(member) is tuple for member in (kind, *get_args(kind)))


@dataclass
class _Group:
    """An option under its own name and as typed, whether `=` follows it, and the words up to the next option."""

    option: str
    typed: str
    equals: bool
    values: list[str] = field(default_factory=list)


def _groups(words: Sequence[str], aliases: Mapping[str, str]) -> Iterator[_Group]:
    group = _Group("", "", False)
    for word in words:
        if word.startswith("--") and len(word) > 2:
            yield group
            typed, equals, value = word.partition("=")
            option = typed.replace("_", "-")
            group = _Group(aliases.get(option, option), typed, bool(equals), [value] if equals else [])
        else:
            group.values.append(word)
    yield group


def _elements(option: str, values: Sequence[str]) -> list[str]:
    """The elements of a list: names between commas; a file whose name has a comma is one element.

    Raises:
        R2T2Error: an element is empty.
    """
    elements: list[str] = []
    for i, value in enumerate(values):
        parts = [value] if os.path.exists(value) else [part.strip() for part in value.split(",")]
        if i and parts and not parts[0]:  # `a ,b`
            parts = parts[1:]
        if i + 1 < len(values) and parts and not parts[-1]:  # `a, b`
            parts = parts[:-1]
        if not all(parts):
            raise R2T2Error(f"{option} {value!r} has an empty name; separate names by single commas or blanks")
        elements += parts
    return elements
