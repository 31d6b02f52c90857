"""Checks strategies against questions, bank and model before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import REQUIREMENTS, Need, check_model
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import Method
from r2t2_jax.retrieval.neighbors import EpsilonBall
from r2t2_jax.rivals.knn_moe import check_gate_input
from r2t2_jax.rivals.trained import check_gate


def check_strategies(
    strategies: Mapping[str, Method],
    samples: Sequence[Sample] = (),
    bank: ReferenceBank | None = None,
    port: Port | None = None,
    model: str = "MODEL",
) -> None:
    """Check what is known of an evaluation: each of `samples`, `bank` and `port` may be left out.

    Args:
        strategies: by name.
        samples: the questions.
        bank: all references, with their atlas.
        port: the model. Without a bank the references are collected, and the atlas is the one that the port has.
        model: the name of the model, for the command in the message.

    Raises:
        R2T2Error: a strategy reads what is not there; the message names the strategy and says what to do.
    """
    for name, strategy in strategies.items():
        needs = strategy.needs if isinstance(strategy, Strategy) else frozenset()
        _check_samples(name, needs, samples)
        if strategy.atlas is not None or Need.ATLAS in needs:
            _check_atlas(name, bank, port, model)
        if port is not None:
            check_model(name, needs, port.model)
            _check_port(name, strategy, needs, port)


def check_neighbors(strategies: Mapping[str, Method], bank: ReferenceBank) -> None:
    """Check that the bank has as many references as the strategies read at once.

    Raises:
        R2T2Error: a strategy reads more neighbors than there are.
    """
    correct = int(bank.right.sum())
    for name, strategy in strategies.items():
        count = None if isinstance(strategy.selector, EpsilonBall) else getattr(strategy.selector, "k", None)
        references = correct if strategy.atlas is None else len(bank)
        if count is not None and count > references:
            raise R2T2Error(
                f"{name} reads k={count} neighbors from a bank of {references} references; lower k or collect more"
            )


def _check_samples(name: str, needs: frozenset[Need], samples: Sequence[Sample]) -> None:
    if Need.TASK_ROUTING in needs:
        for sample in samples:
            if not sample.experts:
                raise R2T2Error(
                    f"{name} needs the task routing of every query, and the question {sample.id!r} does not name the "
                    "experts that it needs: leave the strategy out, or take questions that do"
                )
    if needs & {Need.ANSWERS, Need.PERMUTED_ANSWERS} and not all(sample.answers for sample in samples):
        raise R2T2Error(f"{name} {REQUIREMENTS[Need.ANSWERS].message}")


def _check_atlas(name: str, bank: ReferenceBank | None, port: Port | None, model: str) -> None:
    reads = f"{name} reads the bank's loss atlas"
    if bank is not None and bank.atlas is None:
        build = f"r2t2 bank atlas {bank.origin or 'BANK'} --model {model}"
        raise R2T2Error(f"{reads}, and the bank has no loss atlas; build it with `{build}`")
    if bank is None and port is not None and port.atlas is None:
        raise R2T2Error(
            f"{reads}, and {port.name} comes with no loss atlas; build a bank and its atlas with `r2t2 bank build` and "
            "`r2t2 bank atlas`, and name the bank with --bank"
        )


def _check_port(name: str, strategy: Method, needs: frozenset[Need], port: Port) -> None:
    if Need.FINETUNED_ROUTING in needs:
        check_gate(port)
    if isinstance(strategy, Strategy) and strategy.memory_strategy is not None:
        check_gate_input(port)
    getattr(strategy, "check_port", lambda port: None)(port)  # of a baseline
