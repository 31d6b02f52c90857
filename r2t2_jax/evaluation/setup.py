"""Opens the parts of an evaluation: a model and its embedder, questions, a metric, a bank; here or on a worker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.inspect import leaked_samples
from r2t2_jax.bank.manifest import fingerprints_of, read_manifest
from r2t2_jax.bank.storage import folder_digest
from r2t2_jax.contract import BeamModel, Embedder, Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.devices import ReplicaGroup, device_groups, load_on, local_model
from r2t2_jax.evaluation.feature_cache import with_samples
from r2t2_jax.evaluation.question_sets import samples_digest, settings_by_set
from r2t2_jax.method.forward import stored_features
from r2t2_jax.methods import find_preset, own_preset
from r2t2_jax.metrics import Metric, check_samples, get_metric
from r2t2_jax.plugins import PORTS, load, registered
from r2t2_jax.retrieval.hashed_bag_of_words import question_embedder
from r2t2_jax.runs.cluster import Workers
from r2t2_jax.runs.fingerprint import local_devices, numerics, package_versions
from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

VALIDATION = "validation"
IDENTITY = ("id", "question", "answer", "answers", "options", "image_sha256", "score")  # of a reference
INSTRUCTION = ",instruction="  # in an embedder's name


def open_port(model: str, embedder: str = "", preset: str | None = None) -> Port:
    """A model by its name, with the embedder of this name in place of its own if the name is not empty.

    Raises:
        R2T2Error: as `load` and `with_embedder`.
    """
    (port,) = with_embedder([load(model)], embedder, preset)
    return port


def with_embedder(ports: Sequence[Port], name: str, preset: str | None = None) -> list[Port]:
    """The ports with the embedder of this name, loaded once for all; with their own if the name is empty.

    Args:
        ports: copies of a model.
        name: of the embedder.
        preset: its `embedding.instruction` is used; by default the model's own preset, else the paper's.

    Raises:
        R2T2Error: as `question_embedder` and `find_preset`.
    """
    if not name:
        return list(ports)
    first = ports[0]
    settings = find_preset(preset or own_preset(first.name, first.presets), first.presets)
    embedder = open_embedder(name, settings.embedding.instruction)
    return [replace(port, embedder=embedder) for port in ports]


def open_embedder(name: str, instruction: str | None) -> Embedder:
    """An embedder by its name, with this instruction if it takes one and the name does not give another.

    Raises:
        R2T2Error: as `question_embedder`.
    """
    embedder = question_embedder(name)
    instructed = getattr(embedder, "with_instruction", None)
    if instructed is None or instruction is None or INSTRUCTION in name:
        return embedder
    return instructed(instruction)


def with_decoding(port: Port, beams: int) -> Port:
    """The port with this number of beams; 1 decodes greedily.

    Raises:
        R2T2Error: the number is below 1, or the model has no beam search.
    """
    if not isinstance(beams, int) or beams < 1:
        raise R2T2Error(f"{beams} beams; 1 decodes greedily, 3 is the setting of the published MoAI")
    if beams > 1 and not isinstance(port.model, BeamModel):
        raise R2T2Error(f"{port.name} has no beam search: leave out --beams {beams}")
    return replace(port, beams=beams)


def open_questions(data: str, split: str | None, limit: int | None, seed: int) -> list[Sample]:
    """Labeled questions.

    Args:
        data: a registered set or a `.jsonl` file.
        split: `None` for validation, or for all lines of a file.
        limit: number of questions; `None` for the set's default.
        seed: chooses the questions.

    Raises:
        R2T2Error: as `load_dataset`.
    """
    default = "" if data.endswith(".jsonl") else VALIDATION
    return load_dataset(data, default if split is None else split, limit, seed)


def open_question_sets(
    names: Sequence[str], split: str | None, limit: int | None, seed: int, metric: str
) -> tuple[list[Sample], Metric]:
    """Labeled questions of one or several sets in the order of the names, and the metric of all of them.

    Args:
        names: registered sets or `.jsonl` files.
        split: of the questions, also by set: `gqa=val,train`; `None` as for `open_questions`.
        limit: number of questions of each set; `None` for the set's default.
        seed: chooses the questions.
        metric: name, also by set; empty for each set's own.

    Raises:
        R2T2Error: a set is named twice, the sets have different metrics, or as `open_questions` and `metric_for`.
    """
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise R2T2Error(f"dataset {repeated[0]!r} is named twice")
    metrics = metrics_by_set(names, metric)
    splits = settings_by_set("--split", split or "", names)
    samples: list[Sample] = []
    for name in names:
        questions = open_questions(name, splits[name], limit, seed)
        check_samples(metrics[name], questions, name)
        samples += questions
    return samples, get_metric(metrics[names[0]])


def metrics_by_set(names: Sequence[str], metric: str) -> dict[str, str]:
    """The name of the metric of each set, the same for all.

    Raises:
        R2T2Error: a metric is unknown, or the metrics differ.
    """
    chosen = settings_by_set("--metric", metric, names)
    metrics = {name: chosen[name] or own_metric(name) for name in names}
    for name in metrics.values():
        get_metric(name)
    if len(set(metrics.values())) > 1:
        listed = ", ".join(f"{value} for {name}" for name, value in metrics.items())
        raise R2T2Error(f"the sets have different metrics ({listed}): choose one with --metric, or one set")
    return metrics


def own_metric(data: str) -> str:
    """The name of a set's default metric."""
    return DATASETS[data].metric if data in DATASETS else "exact_match"


def metric_for(data: str, name: str, samples: Sequence[Sample] = ()) -> Metric:
    """The metric of this name; if the name is empty the set's default metric, else exact match.

    Raises:
        R2T2Error: as `get_metric`, or the metric cannot score the samples.
    """
    name = name or own_metric(data)
    metric = get_metric(name)
    check_samples(name, samples, data)
    return metric


def open_bank(
    port: Port,
    path: Path | None,
    metrics: Mapping[str, Metric],
    questions: Sequence[Sample],
    keep_wrong: bool = False,
    allow_leakage: bool = False,
) -> ReferenceBank:
    """References of a port, read from disk or collected from the set that is registered with the port.

    Args:
        port: the model.
        path: the bank's directory; `None` to collect.
        metrics: by set; decides which collected references are correct, by default the set's own metric.
        questions: to be answered; none of them may be a reference.
        keep_wrong: return all references, with the loss atlas if there is one, instead of the correct ones only.
        allow_leakage: accept questions that are also references.

    Raises:
        R2T2Error: the bank belongs to another model, no set of references is registered with the port, or a question is
            also a reference.
    """
    if path is not None:
        bank = _with_features(ReferenceBank.open(path, fingerprints_of(port)), port, questions)
        bank = bank if keep_wrong else bank.only_correct()
    else:
        name = reference_set(port)
        samples = load_dataset(name, "reference")
        metric = metrics[name] if name in metrics else metric_for(name, "", samples)
        bank = collect_bank(port, samples, metric, keep_wrong=keep_wrong)
        bank = with_shipped_atlas(bank, port) if keep_wrong else bank
    check_no_overlap(bank, questions, allow_leakage)
    return bank


def bank_digest(bank: ReferenceBank) -> str:
    """A hash of the references: of the files of an opened bank, else of records, their order, and the atlas."""
    if bank.origin is not None:
        return folder_digest(bank.origin)
    digest = hashlib.sha256(bank.right.tobytes())
    for record in bank.records:
        digest.update(repr([record.get(name) for name in IDENTITY]).encode())
    if bank.atlas is not None:
        digest.update(np.asarray(bank.atlas.points).tobytes() + np.asarray(bank.atlas.losses).tobytes())
    return digest.hexdigest()[:16]


def references_digest(port: Port, path: Path | None) -> str:
    """A hash of the references that `open_bank` will return, before they are collected.

    Raises:
        R2T2Error: the bank cannot be read, or no set of references is registered with the port.
    """
    if path is not None:
        read_manifest(path)
        return folder_digest(path)
    return samples_digest(load_dataset(reference_set(port), "reference"))


def reference_set(port: Port) -> str:
    """The set of references that is registered with a port.

    Raises:
        R2T2Error: there is none.
    """
    name = port.name.partition(":")[0]
    if name not in registered(GROUP):
        raise R2T2Error(f"no set of references is registered for {name}: give a bank from r2t2 bank build")
    return name


def _with_features(bank: ReferenceBank, port: Port, questions: Sequence[Sample]) -> ReferenceBank:
    """The bank with features, read from its directory if they are stored there, else computed on demand."""
    if bank.folder is None or not questions or not read_manifest(bank.folder).stored:
        return with_samples(bank, port)
    inputs = port.processor.prepare(port.params, questions[:1])
    answers = port.processor.answer_ids([str(bank.records[0]["answer"])])
    return bank.with_stored_samples(stored_features(port, inputs, answers), answers)


def check_no_overlap(bank: ReferenceBank, questions: Sequence[Sample], allow: bool = False) -> list[Sample]:
    """Detect test samples that are also references (train/test leakage): their answers are in the bank.

    Args:
        bank: the references.
        questions: the test samples.
        allow: return them instead of raising.

    Raises:
        R2T2Error: there are some.
    """
    leaked = leaked_samples(bank, questions)
    if leaked and not allow:
        raise R2T2Error(
            f"{len(leaked)} of {len(questions)} questions are also references in the bank, first {leaked[0].id!r}: "
            "choose other questions, build the bank from other samples, or pass --allow-leakage (compared by id and "
            "question, and by image and question)"
        )
    return leaked


@dataclass(frozen=True)
class ModelSource:
    """The source from which a worker opens the driver's model.

    Args:
        model: name of the model, or the path of its directory.
        uri: where the directory is fetched from if this host does not see the path; may be empty.
        embedder: name of the embedder of questions; empty for the model's own.
        instruction: of the embedder, if it takes one.
        beams: of the decoding.
        mesh: the worker's devices, as `--mesh`.
        fingerprints: of the driver's model and embedder.
        versions: of the driver's packages, and its numerics.
        devices: number and kind of the accelerators of each worker; `None` for workers on CPUs.
    """

    model: str
    uri: str
    embedder: str
    instruction: str | None
    beams: int
    mesh: str
    fingerprints: tuple[str, str]
    versions: Mapping[str, str]
    devices: str | None

    @classmethod
    def of(cls, workers: Workers, port: Port, model: str, embedder: str = "", mesh: str = "") -> ModelSource:
        """The source of the driver's `port`, which it opened by the name `model`."""
        path = Path(model)
        return cls(
            model=str(path.resolve()) if path.is_dir() and model not in registered(PORTS) else model,
            uri=workers.config.model_uri,
            embedder=embedder,
            instruction=getattr(port.embedder, "instruction", None),
            beams=port.beams,
            mesh=mesh,
            fingerprints=(port.fingerprint, port.embedder.fingerprint),
            versions=package_versions() | numerics(),
            devices=workers.devices,
        )

    def open(self) -> tuple[list[Port], list[ReplicaGroup]]:
        """The model on this worker's devices: a copy on each group.

        Raises:
            R2T2Error: the worker has other package versions, devices or another model than the driver, or cannot find
                the model.
        """
        enable_compilation_cache()
        present = package_versions() | numerics()
        names = dict.fromkeys((*present, *self.versions))
        different = [name for name in names if present.get(name) != self.versions.get(name)]
        if different:
            values = ", ".join(
                f"{name} {present.get(name)!r} and not {self.versions.get(name)!r}" for name in different
            )
            raise R2T2Error(f"a worker has {values}: install the versions and use the settings of the driver")
        if self.devices is not None and self.devices != local_devices():
            raise R2T2Error(
                f"a worker has {local_devices()}, others have {self.devices}, and results depend on it: "
                "choose nodes of one kind by a custom resource in --worker-resources"
            )
        groups = device_groups(self.mesh)
        ports = [with_decoding(port, self.beams) for port in load_on(local_model(self.model, self.uri), groups)]
        if self.embedder:
            embedder = open_embedder(self.embedder, self.instruction)
            ports = [replace(port, embedder=embedder) for port in ports]
        own = (ports[0].fingerprint, ports[0].embedder.fingerprint)
        if own != tuple(self.fingerprints):
            raise R2T2Error(f"a worker loaded model and embedder {own}, the driver has {tuple(self.fingerprints)}")
        return ports, groups
