"""Exact search: one query inside a traced program, or batches over blocks of rows, on one device or several.

On a CPU the blocks of a batch are products of numpy's BLAS, of which only scores above a running threshold are looked
at (`host_search`); on other devices one JAX program multiplies and sorts. Candidates are ranked by distances in double
precision in either case.

Axis letters: B queries, K neighbors, C candidates, N bank size, M embedding size, R rows of a block, P devices or pairs
of a query and a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.host_search import HostScores, half_squares
from r2t2_jax.retrieval.protocol import METRICS, Hits, Metric, check_search, check_vectors
from r2t2_jax.runtime.typed_json import open_json

if TYPE_CHECKING:
    from r2t2_jax.retrieval.protocol import Index

FILE = "index.json"
SAMPLED = 256  # rows whose digest identifies the embeddings


def write_index(path: Path, kind: str, index: Index, facts: Mapping[str, Any]) -> None:
    """Write `index.json`, as the last file: an index that has it is complete."""
    path.mkdir(parents=True, exist_ok=True)
    content = {"kind": kind, "metric": index.metric, "embeddings": sample_digest(index.embeddings), **facts}
    (path / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def read_index(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> dict[str, Any]:
    """The content of `index.json`.

    Raises:
        R2T2Error: there is no index, it is damaged, or it was built for other embeddings.
    """
    content = _read(path)
    if content["embeddings"] != sample_digest(embeddings):
        raise R2T2Error(f"{path} was built for other embeddings than these; build the index again")
    return content


def matches(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> bool:
    """Whether the index in a directory was built for these embeddings; raises if it is damaged."""
    return _read(path)["embeddings"] == sample_digest(embeddings)


def _read(path: Path) -> dict[str, Any]:
    file = path / FILE
    if not file.exists():
        raise R2T2Error(f"{path} holds no complete index: it has no {FILE}; build it again")
    try:
        document = open_json(file)
        texts = [document.member(name) for name in ("kind", "metric", "embeddings")]
    except R2T2Error as error:
        raise R2T2Error(f"{file} is damaged ({error}); build the index again") from error
    if not all(isinstance(text, str) for text in texts) or document.content["metric"] not in METRICS:
        raise R2T2Error(f"{file} is damaged: 'kind', 'metric' or 'embeddings' cannot be; build the index again")
    content: dict[str, Any] = document.content
    return content


def sample_digest(embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> str:
    """SHA-256 of the shape and of rows spread evenly over the array."""
    rows = np.linspace(0, len(embeddings) - 1, min(SAMPLED, len(embeddings))).astype(int)
    sample = np.ascontiguousarray(np.asarray(embeddings[rows], np.float32))
    return hashlib.sha256(repr(tuple(embeddings.shape)).encode() + sample.tobytes()).hexdigest()


AXIS = "data"
QUERIES, ROWS = 256, 1 << 14  # of one block of scores: 16 MiB
HOST = 4, 2  # on a CPU: times the queries and part of the rows, 32 MiB; BLAS rearranges both once for each other
SPARE = 16  # candidates beyond k, so that rounding does not decide
TIE = 2e-6  # of the largest score: scores this close may be equal vectors, rounded apart
EQUAL = 1e-6  # scores this close may be equal as well


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExactIndex:
    """Compares every reference with the query; ties go to the lowest index.

    Build it by `ExactIndex.build`, which checks the embeddings. 45,000 x 4096 float32 are 0.74 GB and one product.
    Half-precision embeddings stay as they are; scores and distances are computed in float32.
    """

    embeddings: Float[Array, "N M"]
    metric: Metric = field(default="cosine", metadata={"static": True})

    @classmethod
    def build(cls, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"], metric: Metric = "cosine") -> ExactIndex:
        """An index of vectors; for `cosine`, of unit vectors.

        Raises:
            R2T2Error: the bank is empty, or an embedding is not finite, too long for squares in float32 or, for cosine,
                not of unit length.
        """
        check_vectors("reference embeddings", embeddings, metric)
        half = embeddings.dtype in (jnp.float16, jnp.bfloat16)
        return cls(jnp.asarray(embeddings, embeddings.dtype if half else jnp.float32), metric)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def nearest(self, query: Float[Array, "M"], k: int) -> Int[Array, "K"]:
        """Indices of the k nearest references of one query, ties ordered by index; traced."""
        query = query.astype(jnp.float32)
        scores = _scores(self.metric, self.embeddings, query[None])[0]  # [N]
        last = jax.lax.top_k(scores, k)[0][-1]
        close = jnp.abs(scores - last) <= TIE * jnp.abs(scores).max()
        top = jax.lax.top_k(jnp.where(close, last, scores), k)[1]  # the lower index first among equal scores
        # [K, M]; each row is summed separately: equal vectors get equal scores
        chosen = self.embeddings[top].astype(jnp.float32)
        if self.metric == "dot":
            order = -(chosen * query[None]).sum(axis=-1)
        else:
            order = jnp.square(chosen - query[None]).sum(axis=-1)
        return top[jnp.lexsort((top, order))]

    def search(self, queries: Float[np.ndarray, "B M"], k: int, mesh: Mesh | None = None) -> Hits:
        """The k nearest references of each query, by blocks of rows, with the scores of one block in memory.

        Args:
            queries: any number.
            k: number of neighbors.
            mesh: devices over which the rows are split, along its axis `data`; the result is the same.

        Raises:
            R2T2Error: k is not between 1 and N, or a query does not fit.
        """
        check_search(self, queries, k)
        queries, size = np.asarray(queries, np.float32), QUERIES
        if mesh is None and self.on_host:
            size *= HOST[0]
            search = partial(self._search_host, k=k)
        else:
            embeddings = self.embeddings if mesh is None else _shard(self.embeddings, mesh)
            search = partial(self._search_devices, k=k, embeddings=embeddings, mesh=mesh)
        parts = [search(queries[first : first + size]) for first in range(0, len(queries), size)]
        return Hits(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))

    @cached_property
    def on_host(self) -> bool:
        """Whether the embeddings are in the memory of one CPU device."""
        return [device.platform for device in self.embeddings.devices()] == ["cpu"]

    @cached_property
    def _host_rows(self) -> Float[np.ndarray, "N M"]:
        """The embeddings as numpy sees them, without a copy."""
        return np.asarray(self.embeddings)

    @cached_property
    def _host_scores(self) -> HostScores:
        """The scores of every row on the host."""
        return HostScores(self._host_rows, half_squares(self._host_rows, ROWS), self.metric == "dot")

    def _search_host(self, queries: Float[np.ndarray, "B M"], k: int) -> Hits:
        """The k nearest rows of each query, by numpy."""
        pairs = self._host_scores.candidates(queries, k, ROWS // HOST[1])
        distance = pair_distances(self.metric, queries, self._host_rows, pairs.query, pairs.row)
        place = np.arange(len(pairs.query)) - np.searchsorted(pairs.query, pairs.query)  # of a pair in its query
        shape = len(queries), max(k, int(place.max(initial=0)) + 1)
        indices, far = np.full(shape, -1), np.full(shape, np.inf)
        indices[pairs.query, place], far[pairs.query, place] = pairs.row, distance
        hits = nearest(indices, far, k)
        for b in np.flatnonzero(pairs.crowded).tolist():
            self._settle(hits, b, queries[b : b + 1], float(pairs.floor[b]), k)
        return hits

    def _search_devices(self, queries: Float[np.ndarray, "B M"], k: int, embeddings: Array, mesh: Mesh | None) -> Hits:
        """The k nearest rows of each query, by a JAX program that proposes candidates."""
        return self._rank(queries, k, *self._device_candidates(queries, min(k + SPARE, len(self)), embeddings, mesh))

    def _device_candidates(
        self, queries: Float[np.ndarray, "B M"], count: int, embeddings: Array, mesh: Mesh | None
    ) -> tuple[Float[np.ndarray, "B C"], Int[np.ndarray, "B C"]]:
        """Scores and indices of the `count` best rows, best first, by a JAX program."""
        padded = np.concatenate([queries, np.repeat(queries[-1:], QUERIES - len(queries), axis=0)])
        propose = partial(_candidates, metric=self.metric, count=count, size=len(self))
        if mesh is None:
            scores, indices = propose(embeddings, padded)
        else:
            scores, indices = _on_each_device(mesh, propose)(embeddings, padded)
        scores, indices = (np.asarray(array)[: len(queries)] for array in (scores, indices))  # [B, C] or [B, P C]
        indices = np.where(np.isneginf(scores), -1, indices)
        best = np.lexsort((indices, -scores), axis=-1)[:, :count]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(indices, best, 1)

    def _rank(
        self,
        queries: Float[np.ndarray, "B M"],
        k: int,
        scores: Float[np.ndarray, "B C"],
        indices: Int[np.ndarray, "B C"],
    ) -> Hits:
        """The k nearest of the candidates, which are sorted by their scores, by distances in double precision."""
        count = scores.shape[1]
        floor = scores[:, k - 1] - TIE * np.abs(scores).max(axis=1) - EQUAL
        near = max(k, int((scores >= floor[:, None]).sum(axis=1).max()))  # the others are farther
        indices = indices[:, :near]
        hits = nearest(indices, distances(self.metric, queries, self._rows(indices)), k)
        for b in np.flatnonzero(scores[:, -1] >= floor).tolist() if count < len(self) else ():
            self._settle(hits, b, queries[b : b + 1], floor[b], k)  # more ties than spare candidates
        return hits

    def _rows(self, indices: Int[np.ndarray, "B C"]) -> Float[np.ndarray, "B C M"]:
        return np.asarray(self.embeddings[jnp.asarray(indices)])

    def _settle(self, hits: Hits, b: int, query: Float[np.ndarray, "1 M"], floor: float, k: int) -> None:
        """Rank every reference of query b whose score reaches `floor`, and put the nearest into row b of `hits`."""
        best = None
        for first in range(0, len(self), ROWS):
            rows = self.embeddings[first : first + ROWS]
            near = np.flatnonzero(np.asarray(_scores(self.metric, rows, jnp.asarray(query)))[0] >= floor)
            if not len(near):
                continue
            indices, distance = near[None] + first, distances(self.metric, query, np.asarray(rows)[None, near])
            if best is not None:
                indices, distance = (np.hstack(pair) for pair in ((best.indices, indices), (best.distances, distance)))
            best = nearest(indices, distance, k)
        assert best is not None  # the k-th candidate itself reaches the floor
        hits.indices[b], hits.distances[b], hits.mask[b] = best.indices[0], best.distances[0], best.mask[0]

    def save(self, path: Path) -> None:
        """Write the metric and a digest of the embeddings; exact search needs nothing else."""
        write_index(path, "exact", self, {})


def _scores(metric: Metric, embeddings: Float[Array, "R M"], queries: Float[Array, "B M"]) -> Float[Array, "B R"]:
    """Scores, larger is nearer. For L2 distances they are x.q - |x|^2 / 2, without |q|^2 / 2, which all rows share.

    Unit vectors in half precision have lengths that differ, so |x|^2 counts for cosine as well.
    """
    embeddings = embeddings.astype(jnp.float32)
    scores = jnp.matmul(queries, embeddings.T, precision="highest")
    return scores - jnp.square(embeddings).sum(axis=-1)[None] / 2 if metric != "dot" else scores


@partial(jax.jit, static_argnames=("metric", "count", "size"))
def _candidates(
    embeddings: Float[Array, "N M"],
    queries: Float[Array, "B M"],
    start: int | Int[Array, ""] = 0,
    *,
    metric: Metric,
    count: int,
    size: int,
) -> tuple[Float[Array, "B C"], Int[Array, "B C"]]:
    """Scores and indices of the `count` best rows, block by block; the first row has index `start`.

    Rows from index `size` on are padding. The last block is shifted to end with the array; no row counts twice.
    """
    n = embeddings.shape[0]
    rows = min(ROWS, n)

    def block(best: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        first = jnp.minimum(number * rows, n - rows)
        part = jax.lax.dynamic_slice_in_dim(embeddings, first, rows)  # [R, M]
        local = first + jnp.arange(rows)
        new = (local >= number * rows) & (start + local < size)
        scores = jnp.where(new[None], _scores(metric, part, queries), -jnp.inf)  # [B, R]
        scores, places = jax.lax.top_k(scores, min(count, rows))
        pairs = (jnp.hstack(pair) for pair in zip(best, (scores, (start + local)[places]), strict=True))
        scores, indices = pairs
        scores, places = jax.lax.top_k(scores, count)
        return (scores, jnp.take_along_axis(indices, places, axis=1)), None

    b = queries.shape[0]
    nothing = jnp.full((b, count), -jnp.inf, jnp.float32), jnp.full((b, count), -1)
    return jax.lax.scan(block, nothing, jnp.arange(-(-n // rows)))[0]


def _shard(embeddings: Float[Array, "N M"], mesh: Mesh) -> Float[Array, "N_padded M"]:
    """The rows split over the devices, padded to the same number on each."""
    missing = -embeddings.shape[0] % mesh.shape[AXIS]
    padded = jnp.pad(embeddings, ((0, missing), (0, 0)))
    return jax.device_put(padded, NamedSharding(mesh, PartitionSpec(AXIS)))


def _on_each_device(mesh: Mesh, propose: partial) -> jax.stages.Wrapped:
    """The candidates of each device among its own rows, concatenated."""

    def local(embeddings: Array, queries: Array) -> tuple[Array, Array]:
        return propose(embeddings, queries, jax.lax.axis_index(AXIS) * embeddings.shape[0])

    concatenated = PartitionSpec(None, AXIS)
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=(concatenated, concatenated),
            check_vma=False,
        )
    )


NUMBERS = 1 << 15  # compared at a time: 640 KiB stay in the cache


def distances(
    metric: Metric, queries: Float[np.ndarray, "B M"], candidates: Float[np.ndarray, "B C M"]
) -> Float[np.ndarray, "B C"]:
    """The metric's distance of every query to each of its candidates."""
    b, c, m = candidates.shape
    rows = candidates.reshape(b * c, m)
    return pair_distances(metric, queries, rows, np.repeat(np.arange(b), c), np.arange(b * c)).reshape(b, c)


def pair_distances(
    metric: Metric,
    queries: Float[np.ndarray, "B M"],
    embeddings: Float[np.ndarray, "N M"],
    query: Int[np.ndarray, "P"],
    row: Int[np.ndarray, "P"],
) -> Float[np.ndarray, "P"]:
    """The metric's distance of queries to rows, pair by pair, in double precision."""
    result, queries = np.empty(len(query)), queries.astype(np.float64)
    step = max(1, NUMBERS // queries.shape[1])
    rows, vectors = np.empty((2, min(step, len(query)), queries.shape[1]))
    for first in range(0, len(query), step):
        part = slice(first, first + step)
        x, q = rows[: len(query[part])], vectors[: len(query[part])]
        x[...] = embeddings.take(row[part], axis=0)
        queries.take(query[part], axis=0, out=q, mode="clip")  # without `mode`, `out` is filled by a copy
        if metric != "dot":
            q = np.subtract(x, q, out=x)
        np.vecdot(x, q, out=result[part])
    return np.negative(result, out=result) if metric == "dot" else np.sqrt(result, out=result)


def nearest(indices: Int[np.ndarray, "B C"], distance: Float[np.ndarray, "B C"], k: int) -> Hits:
    """The k nearest candidates; equal distances are ordered by index. Negative indices are padding."""
    distance = np.where(indices < 0, np.inf, distance)
    order = np.lexsort((indices, distance), axis=-1)[:, :k]
    rows, far = np.take_along_axis(indices, order, 1), np.take_along_axis(distance, order, 1)
    return Hits(np.maximum(rows, 0), far, np.isfinite(far))
