"""The reference set {(x_i, y_i, r_i)}: in memory, or opened from a directory (docs/bank.md).

Axis letters: B test samples, K neighbours, N bank size, M embedding size, L routed layers, E experts,
G atlas points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.bank.manifest import Fingerprints, Source
from r2t2_jax.bank.records import Chosen, SampleReader, StoredSamples
from r2t2_jax.contract import Answer, Features, References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Kernel
from r2t2_jax.method.search.atlas_points import AtlasLoss
from r2t2_jax.retrieval import INDEX, build_index, saved_index
from r2t2_jax.retrieval.neighbors import Neighbors
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.checks import check_embeddings, check_finite, check_rows


@dataclass(frozen=True)
class ReferenceBank:
    """Reference samples with a model's own routing of each (R2-T2, section 3).

    Args:
        features: what the model computes of each sample without routing; every leaf has a leading axis N. `None` for an
            opened bank: `reader` then gives those of the rows asked for.
        answers: the correct answers, as `answer_loss` takes them; every leaf has a leading axis N. `None` likewise.
        routing: the router's own weights [N, L, E].
        embeddings: unit question embeddings [N, M].
        records: question, answer and whatever else is worth telling of each sample, for reports.
        model_fingerprint, embedder_fingerprint, processing_fingerprint: what computed the arrays.
        correct: which samples the model answers correctly; `None` for all. The others are kept for methods that learn
            from them; `references` hands out correct ones only.
        reader: features and answers of rows, where they are not in memory.
        spec: names and structure of the routing weights, where known.
        sources: where the samples came from.
        metric: what scored the answers.
        folder: the directory it was opened from, while its rows are those of the directory.
        origin: that directory still, when rows were taken.
        atlas: losses of every reference at the points of a loss atlas, where one was made.

    Raises:
        R2T2Error: the bank is empty, arrays disagree on N, an array holds NaN or infinity, or an embedding is no unit
            vector. The values of memory-mapped arrays were checked when they were written, and are not read again.
    """

    features: Features | None
    answers: Answer | None
    routing: Float[Array, "N L E"] | Float[np.ndarray, "N L E"]
    embeddings: Float[Array, "N M"] | Float[np.ndarray, "N M"]
    records: Sequence[Mapping[str, Any]] = field(default=())
    model_fingerprint: str = ""
    embedder_fingerprint: str = ""
    processing_fingerprint: str = ""
    correct: Bool[np.ndarray, "N"] | None = None
    reader: SampleReader | None = field(default=None, repr=False)
    spec: RoutingSpec | None = None
    sources: tuple[Source, ...] = ()
    metric: str = ""
    folder: Path | None = None
    origin: Path | None = None
    atlas: Atlas | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.routing.ndim != 3:
            raise R2T2Error(
                f"reference routing has shape {self.routing.shape}; it must be [references, layers, experts]"
            )
        if len(self) == 0:
            raise R2T2Error("empty reference set: the model answered no reference correctly; collect other samples")
        if not isinstance(self.embeddings, np.memmap):
            check_embeddings("reference embeddings", self.embeddings)
        for name, tree in self._arrays().items():
            check_rows(name, tree, len(self))
            if not isinstance(tree, np.memmap):
                check_finite(name, tree)
        if self.atlas is not None and len(self.atlas) != len(self):
            raise R2T2Error(f"a loss atlas of {len(self.atlas)} rows for {len(self)} references; make it again")
        if self.records and len(self.records) != len(self):
            raise R2T2Error(f"{len(self.records)} records for {len(self)} references; give one a reference or none")

    def _arrays(self) -> dict[str, Any]:
        return {
            "reference features": self.features,
            "reference answers": self.answers,
            "reference routing": self.routing,
            "reference embeddings": self.embeddings,
            "flags of correct references": self.correct,
        }

    def __len__(self) -> int:
        return self.routing.shape[0]

    @property
    def fingerprints(self) -> Fingerprints:
        """What computed the arrays."""
        return Fingerprints(self.model_fingerprint, self.embedder_fingerprint, self.processing_fingerprint)

    @property
    def right(self) -> Bool[np.ndarray, "N"]:
        """Which references the model answers correctly."""
        return np.ones(len(self), bool) if self.correct is None else self.correct

    @staticmethod
    def open(path: str | Path, expected: Fingerprints | None = None) -> ReferenceBank:
        """The bank in a directory, memory-mapped: a million rows open in a fraction of a second.

        It holds every stored row, correct or not: `only_correct` is what the paper's strategies read. To hand out
        features it needs a model: `evaluation.reencode.with_samples`, or `with_stored_samples` where they were stored.

        Args:
            path: the directory.
            expected: what the arrays must have been computed with; a fingerprint left empty is not checked.

        Raises:
            R2T2Error: not a bank, incomplete, damaged, of another schema version, or computed by something else (both
                are named). What a quick look at large files cannot find, `r2t2 bank inspect --verify` does.
        """
        from r2t2_jax.bank.storage import open_stored

        return open_stored(Path(path), expected or Fingerprints())

    def save(self, path: str | Path) -> None:
        """Write the bank to a directory, with its features and answers if they are in memory.

        Raises:
            R2T2Error: the directory cannot be written, or is there and is no bank.
        """
        from r2t2_jax.bank.storage import store

        store(self, Path(path))

    def take(self, rows: Int[np.ndarray, "n"] | Bool[np.ndarray, "N"]) -> ReferenceBank:
        """The given rows, by number or flag, in that order.

        Raises:
            R2T2Error: there is none.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        features, answers, routing, embeddings, correct = jax.tree.map(
            lambda leaf: leaf[rows], (self.features, self.answers, self.routing, self.embeddings, self.correct)
        )
        return replace(
            self,
            features=features,
            answers=answers,
            routing=routing,
            embeddings=embeddings,
            records=_take_records(self.records, rows),
            correct=correct,
            reader=None if self.reader is None else Chosen(self.reader, rows),
            folder=None,
            atlas=None if self.atlas is None else self.atlas.take(rows),
        )

    def only_correct(self) -> ReferenceBank:
        """The references which the model answers correctly; the bank itself if these are all."""
        return self if self.correct is None else replace(self.take(self.correct), correct=None)

    def filter(self, keep: Callable[[Mapping[str, Any]], bool]) -> ReferenceBank:
        """The references whose record `keep` accepts."""
        return self.take(np.array([bool(keep(record)) for record in self.records], bool))

    def subsample(self, n: int, seed: int = 0) -> ReferenceBank:
        """As many references as `n` says, drawn by the seed, in their order; all of them where there are no more."""
        if n >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)))

    def index(self) -> Index:
        """An index of the references: the one that `r2t2 bank index` saved for them, else one built now.

        Raises:
            R2T2Error: the saved index is damaged, or needs ScaNN where there is none.
        """
        saved = None if self.origin is None else saved_index(self.origin / INDEX, self.embeddings)
        return saved or build_index(self.embeddings)

    def samples(self, rows: Int[np.ndarray, "n"]) -> tuple[Features, Answer]:
        """Features and answers of rows, with a leading axis n: from memory, from disk, or computed again.

        Raises:
            R2T2Error: the bank was opened without a model to compute them with.
        """
        if self.features is not None:
            return StoredSamples(self.features, self.answers)(rows)
        if self.reader is None:
            raise R2T2Error(
                "this bank holds no features of its references; give it a model: "
                "r2t2_jax.evaluation.feature_cache.with_samples(bank, port)"
            )
        return self.reader(rows)

    def references(self, neighbors: Neighbors | None = None, kernel: Kernel | None = None) -> References:
        """The references of a batch [B, K, ...], weighted by the kernel.

        Without neighbours only the routing of the whole bank is handed on, which is all that mode finding reads.

        Raises:
            R2T2Error: the bank holds references which the model answers wrongly; use `only_correct()`.
        """
        if self.correct is not None and not self.correct.all():
            wrong = len(self) - int(self.correct.sum())
            raise R2T2Error(f"{wrong} of {len(self)} references are answered wrongly; use bank.only_correct()")
        if neighbors is None or kernel is None:
            return References(self._routing_on_device)
        rows = np.asarray(neighbors.indices)  # [B, K]; on the host, since the features may live there
        features, answers, routing = jax.tree.map(
            lambda leaf: jnp.asarray(leaf).reshape(rows.shape + leaf.shape[1:]),  # [B, K, ...]
            (*self.samples(rows.ravel()), self.routing[rows.ravel()]),
        )
        weights = kernel_weights(kernel, neighbors.distances, neighbors.dots, neighbors.mask)
        return References(self._routing_on_device, features, answers, routing, weights)

    def table(self, neighbors: Neighbors, kernel: Kernel, loss: AtlasLoss = "bounded") -> References:
        """What the loss atlas says of each neighbourhood [B, K, ...], weighted by the kernel; no features.

        References answered wrongly count like any other. `loss` says what the table's rows are read as.

        Raises:
            R2T2Error: the bank has no atlas.
        """
        rows = np.asarray(neighbors.indices)  # [B, K]
        atlas = self.known_atlas
        return References(
            None,
            routing=jnp.asarray(self.routing[rows]),
            weights=kernel_weights(kernel, neighbors.distances, neighbors.dots, neighbors.mask),
            points=jnp.asarray(atlas.points),
            point_losses=jnp.asarray(atlas.rows(rows, loss)),  # [B, K, G]
            slopes=None if atlas.slopes is None else jnp.asarray(atlas.slopes[rows], jnp.float32),
        )

    def table_of(self, losses: Float[np.ndarray, "B G"]) -> References:
        """Losses at the atlas's points that were found some other way, as a neighbourhood of one row.

        Raises:
            R2T2Error: the bank has no atlas.
        """
        rows = jnp.asarray(losses)[:, None]  # [B, 1, G]
        return References(
            None, weights=jnp.ones(rows.shape[:2]), points=jnp.asarray(self.known_atlas.points), point_losses=rows
        )

    @property
    def known_atlas(self) -> Atlas:
        """The loss atlas.

        Raises:
            R2T2Error: the bank has none.
        """
        if self.atlas is None:
            raise R2T2Error("this bank has no loss atlas; make one with `r2t2 bank atlas`")
        return self.atlas

    @cached_property
    def _routing_on_device(self) -> Float[Array, "N L E"]:
        return jnp.asarray(self.routing)


def _take_records(records: Sequence[Mapping[str, Any]], rows: Int[np.ndarray, "n"]) -> Sequence[Mapping[str, Any]]:
    from r2t2_jax.bank.records import Records

    return records.take(rows) if isinstance(records, Records) else [records[i] for i in rows if records]


@jax.jit
def kernel_weights(
    kernel: Kernel, distances: Float[Array, "B K"], dots: Float[Array, "B K"], mask: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Kernel values of every neighbourhood; by lax.map, so that a row does not depend on how many there are."""
    return jax.lax.map(lambda row: kernel(*row), (distances, dots, mask))
