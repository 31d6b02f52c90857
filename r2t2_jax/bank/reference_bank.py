"""The reference set {(x_i, y_i, r_i)}, in memory or opened from a directory (docs/bank.md).

Axis letters: B test samples, K neighbors, N bank size, M embedding size, L routed layers, E experts,
G atlas points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.bank.manifest import Fingerprints, Source
from r2t2_jax.bank.records import Records, SampleReader, SelectedSamples, StoredSamples
from r2t2_jax.bank.storage import BankContents, read_contents, save_contents, stored_samples
from r2t2_jax.contract import Answer, Features, References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Kernel
from r2t2_jax.method.search.atlas_points import AtlasLoss
from r2t2_jax.retrieval import INDEX, build_index, saved_index
from r2t2_jax.retrieval.neighbors import Neighbors
from r2t2_jax.retrieval.protocol import Index
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.checks import check_array, check_embeddings, check_finite, check_rows, shape_hint


@dataclass(frozen=True)
class ReferenceBank:
    """Reference samples with a model's own routing of each (R2-T2, section 3).

    Args:
        features: the model's features of each sample, computed before routing; every leaf has a leading axis N.
            `None` for an opened bank, whose `reader` returns the features of the requested rows.
        answers: the correct answers, as `answer_loss` takes them; every leaf has a leading axis N. `None` likewise.
        routing: the router's own weights [N, L, E].
        embeddings: unit question embeddings [N, M].
        records: question, answer and other fields of each sample, for reports.
        model_fingerprint, embedder_fingerprint, processing_fingerprint: of what computed the arrays.
        correct: which samples the model answers correctly; `None` for all. The others are kept for methods that learn
            from them; `references` returns correct ones only.
        reader: returns features and answers of rows that are not in memory.
        spec: names and structure of the routing weights, if known.
        sources: the sources of the samples.
        metric: name of the metric that scored the answers.
        folder: the directory of an opened bank; `None` once rows were selected.
        origin: the directory of an opened bank, also after rows were selected.
        atlas: losses of every reference at the points of a loss atlas, if the bank has one.

    Raises:
        R2T2Error: the bank is empty, arrays disagree on N, an array holds NaN or infinity, or an embedding is not a
            unit vector. Memory-mapped arrays were checked when they were written, and are not checked again.
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
        self._check_routing()
        if len(self) == 0:
            raise R2T2Error("empty reference set: the model answered no reference correctly; collect other samples")
        if not isinstance(self.embeddings, np.memmap):
            check_embeddings("reference embeddings", self.embeddings)
        counted = f" of routing {list(self.routing.shape)}, whose axes are samples, layers and experts"
        for name, tree in self._arrays().items():
            check_rows(name, tree, len(self), counted)
            if not isinstance(tree, np.memmap):
                check_finite(name, tree)
        if self.atlas is not None and len(self.atlas) != len(self):
            raise R2T2Error(
                f"a loss atlas of {len(self.atlas)} rows for {len(self)} references; "
                "build it again with `r2t2 bank atlas`"
            )
        if self.atlas is not None and isinstance(self.records, list):  # those of a directory were compared on opening
            own = [str(record["id"]) for record in self.records if "id" in record]
            if own and list(self.atlas.ids) != own:
                raise R2T2Error("the loss atlas has the rows of other references; take `atlas.of(ids)`")
        if self.records and len(self.records) != len(self):
            raise R2T2Error(f"{len(self.records)} records for {len(self)} references; give one record each, or none")

    def _check_routing(self) -> None:
        check_array("reference routing", self.routing)
        if self.routing.ndim != 3:
            raise R2T2Error(
                f"reference routing has shape {self.routing.shape}; it must be [references, layers, experts]"
                f"{shape_hint(self.routing.shape)}"
            )
        if self.correct is None:
            return
        check_array("flags of correct references", self.correct)
        if self.correct.dtype != np.bool_:
            raise R2T2Error(f"flags of correct references hold {self.correct.dtype}; give booleans, as of score >= 0.5")

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
        """The fingerprints of what computed the arrays."""
        return Fingerprints(self.model_fingerprint, self.embedder_fingerprint, self.processing_fingerprint)

    @property
    def right(self) -> Bool[np.ndarray, "N"]:
        """Whether the model answers each reference correctly."""
        return np.ones(len(self), bool) if self.correct is None else self.correct

    @staticmethod
    def open(path: str | Path, expected: Fingerprints | None = None) -> ReferenceBank:
        """The bank in a directory, memory-mapped: a million rows open in a fraction of a second.

        The bank has all stored rows, correct or not; the paper's strategies read `only_correct()`. Features need
        `with_stored_samples` if they are stored, else a model: `evaluation.feature_cache.with_samples`.

        Args:
            path: the directory.
            expected: fingerprints that the bank must have; empty ones are not checked.

        Raises:
            R2T2Error: the directory is not a bank, or incomplete, damaged, of another schema version, or computed by
                another model or embedder (both are named). `r2t2 bank inspect --verify` also checks every byte of
                large files.
        """
        if not isinstance(path, str | Path):
            raise R2T2Error(f"a bank is opened by its folder, not {path!r:.60}")
        path = Path(path)
        contents = read_contents(path, expected or Fingerprints())
        return ReferenceBank(
            features=None,
            answers=None,
            routing=contents.routing,
            embeddings=contents.embeddings,
            records=contents.records,
            model_fingerprint=contents.fingerprints.model,
            embedder_fingerprint=contents.fingerprints.embedder,
            processing_fingerprint=contents.fingerprints.processing,
            correct=None if contents.correct.all() else contents.correct,
            spec=contents.spec,
            sources=contents.sources,
            metric=contents.metric,
            folder=path,
            origin=path,
            atlas=contents.atlas,
        )

    def save(self, path: str | Path) -> None:
        """Write the bank to a directory, with its features and answers if they are in memory.

        Raises:
            R2T2Error: the directory cannot be written, or it exists and is not a bank.
        """
        contents = BankContents(
            routing=np.asarray(self.routing, np.float32),
            embeddings=np.asarray(self.embeddings, np.float32),  # half precision too: NumPy stores no bfloat16
            records=self.records,
            correct=self.right,
            fingerprints=self.fingerprints,
            spec=self.spec,
            sources=self.sources,
            metric=self.metric,
            features=self.features,
            answers=self.answers,
        )
        save_contents(Path(path), contents)

    def with_stored_samples(self, features: Features, answers: Answer) -> ReferenceBank:
        """An opened bank with the features and answers that its directory stores, memory-mapped.

        Args:
            features, answers: trees with the structure of the model's, such as those of the test samples.

        Raises:
            R2T2Error: rows were selected, or the directory stores no features or those of another model.
        """
        reader = None if self.folder is None else stored_samples(self.folder, features, answers)
        if reader is None:
            raise R2T2Error(
                f"{self.folder or 'this bank'} stores no features; build it with --features, or give it a model"
            )
        return replace(self, reader=reader)

    def take(self, rows: Int[np.ndarray, "n"] | Bool[np.ndarray, "N"]) -> ReferenceBank:
        """The bank of selected rows, by index in that order or by mask.

        Raises:
            R2T2Error: no row is selected.
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
            records=_select_records(self.records, rows),
            correct=correct,
            reader=None if self.reader is None else SelectedSamples(self.reader, rows),
            folder=None,
            atlas=None if self.atlas is None else self.atlas.take(rows),
        )

    def only_correct(self) -> ReferenceBank:
        """The bank of the references that the model answers correctly; the bank itself if these are all."""
        return self if self.correct is None else replace(self.take(self.correct), correct=None)

    def filter(self, keep: Callable[[Mapping[str, Any]], bool]) -> ReferenceBank:
        """The bank of the references whose record `keep` accepts."""
        return self.take(np.array([bool(keep(record)) for record in self.records], bool))

    def subsample(self, n: int, seed: int = 0) -> ReferenceBank:
        """A bank of `n` random references, in their order; the bank itself if it has no more."""
        if n >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)))

    def index(self, queries: int = 0) -> Index:
        """A search index of the references: the one that `r2t2 bank index` saved, else a new one.

        Args:
            queries: number of queries that it will answer, if known: for many, a new index is approximate
                (`build_index`).

        Raises:
            R2T2Error: the saved index is damaged, or needs ScaNN, which is not installed.
        """
        saved = None if self.origin is None else saved_index(self.origin / INDEX, self.embeddings)
        return saved or build_index(self.embeddings, queries=queries)

    def samples(self, rows: Int[np.ndarray, "n"]) -> tuple[Features, Answer]:
        """Features and answers of rows, with a leading axis n: from memory, from disk, or computed again.

        Raises:
            R2T2Error: the bank was opened without a model that computes them.
        """
        if self.features is not None:
            return StoredSamples(self.features, self.answers)(rows)
        if self.reader is None:
            raise R2T2Error(
                "this bank has no features of its references; give it a model: "
                "r2t2_jax.evaluation.feature_cache.with_samples(bank, port)"
            )
        return self.reader(rows)

    def references(
        self,
        neighbors: Neighbors | None = None,
        kernel: Kernel | None = None,
        features: bool = True,
        reader: SampleReader | None = None,
    ) -> References:
        """The references of a batch [B, K, ...], weighted by the kernel.

        Without neighbors it returns only the routing of the whole bank, which is what mode finding reads.

        Args:
            neighbors: of the batch.
            kernel: of their distances.
            features: whether to read the neighbors' features and answers, which may have to be computed.
            reader: reads them in place of `samples`.

        Raises:
            R2T2Error: the bank has wrongly answered references; use `only_correct()`.
        """
        if self.correct is not None and not self.correct.all():
            wrong = len(self) - int(self.correct.sum())
            raise R2T2Error(f"{wrong} of {len(self)} references are answered wrongly; use bank.only_correct()")
        if neighbors is None or kernel is None:
            return References(self._routing_on_device)
        rows = np.asarray(neighbors.indices)  # [B, K]; on the host, since the features may live there
        samples = (reader or self.samples)(rows.ravel()) if features else (None, None)
        neighbor_features, answers, routing = jax.tree.map(
            lambda leaf: jax.device_put(leaf.reshape(rows.shape + leaf.shape[1:])),  # [B, K, ...]
            (*samples, self.routing[rows.ravel()]),
        )
        weights = kernel_weights(kernel, neighbors.distances, neighbors.dots, neighbors.mask)
        return References(self._routing_on_device, neighbor_features, answers, routing, weights)

    def atlas_references(self, neighbors: Neighbors, kernel: Kernel, loss: AtlasLoss = "bounded") -> References:
        """The atlas rows of each neighborhood [B, K, ...], weighted by the kernel; without features.

        Wrongly answered references are included. `loss` is the loss that the atlas returns.

        Raises:
            R2T2Error: the bank has no atlas.
        """
        rows = np.asarray(neighbors.indices)  # [B, K]
        atlas = self.require_atlas()
        return References(
            None,
            routing=jax.device_put(self.routing[rows]),
            weights=kernel_weights(kernel, neighbors.distances, neighbors.dots, neighbors.mask),
            points=self._points_on_device,
            point_losses=jax.device_put(atlas.rows(rows, loss)),  # [B, K, G]
            slopes=None if atlas.slopes is None else jax.device_put(np.asarray(atlas.slopes[rows], np.float32)),
        )

    def atlas_references_from(self, losses: Float[np.ndarray, "B G"]) -> References:
        """Given losses at the points of the atlas, as a neighborhood of one row per sample.

        Raises:
            R2T2Error: the bank has no atlas.
        """
        weights, rows = jax.device_put((np.ones((len(losses), 1), np.float32), losses[:, None]))  # [B, 1], [B, 1, G]
        return References(None, weights=weights, points=self._points_on_device, point_losses=rows)

    def require_atlas(self) -> Atlas:
        """The loss atlas.

        Raises:
            R2T2Error: the bank has no atlas.
        """
        if self.atlas is None:
            raise R2T2Error("this bank has no loss atlas; build one with `r2t2 bank atlas`")
        return self.atlas

    @cached_property
    def _routing_on_device(self) -> Float[Array, "N L E"]:
        return jax.device_put(self.routing)

    @cached_property
    def _points_on_device(self) -> Float[Array, "G L E"]:
        return jax.device_put(self.require_atlas().points)


def _select_records(records: Sequence[Mapping[str, Any]], rows: Int[np.ndarray, "n"]) -> Sequence[Mapping[str, Any]]:
    return records.take(rows) if isinstance(records, Records) else [records[i] for i in rows if records]


@jax.jit
def kernel_weights(
    kernel: Kernel, distances: Float[Array, "B K"], dots: Float[Array, "B K"], mask: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Kernel values of every neighborhood; `lax.map` makes each row independent of the number of rows."""
    return jax.lax.map(lambda row: kernel(*row), (distances, dots, mask))
