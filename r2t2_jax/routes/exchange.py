"""Routes in the formats of other tools: one JSON object per line, or an archive of arrays (docs/routes.md).

These formats hold expert ids without combine weights. Serving engines leave out the last token, whose route they never
compute; it is read as a token without a route.

Axis letters: T tokens, N layers, k chosen experts, B sequences.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from r2t2_jax.contract import TOKEN_KINDS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.recording import FORMAT, NO_EXPERT, Recording, RecordingFacts, SampleRoutes, routes_table
from r2t2_jax.runs.atomic_io import atomic_write
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.typed_files import read_bytes, read_text
from r2t2_jax.runtime.typed_json import Json, parse_json

FORMATS = ("vllm", "sglang", "maxtext", "verifiers")
LARGEST_ID = np.iinfo(np.int16).max
BATCH = 50


def import_routes(path: Path, kind: str, out: Path, layers: int | None = None, top_k: int | None = None) -> Recording:
    """Write the routes of a file as a recording of ids.

    Args:
        path: the file.
        kind: one of `FORMATS`.
        out: folder of the recording.
        layers, top_k: sizes of the flat arrays of `sglang`; refused with other formats, which state them.

    Raises:
        R2T2Error: the file cannot be read (with line and field), its sequences differ in layers or experts per token,
            or the folder holds something else.
    """
    if (kind == "sglang") != (layers is not None and top_k is not None):
        needed = "needs --layers and --top-k, since its arrays are flat" if kind == "sglang" else "states its sizes"
        raise R2T2Error(f"--format {kind} {needed}{'' if kind == 'sglang' else ': leave out --layers and --top-k'}")
    source = str(path)
    samples = list(_maxtext(path) if kind == "maxtext" else _responses(path, kind, layers, top_k))
    if not samples:
        raise R2T2Error(f"{path} holds no sequence")
    shapes = {sample.experts.shape[1:] for sample in samples}
    if len(shapes) > 1:
        raise R2T2Error(f"{path}: sequences have routes of {sorted(shapes)} layers x experts; one model has one shape")
    ((number, k),) = shapes
    facts = RecordingFacts(
        FORMAT,
        layers=tuple(f"layer {i}" for i in range(number)),
        experts=tuple(f"expert {e}" for e in range(1 + max(int(sample.experts.max()) for sample in samples))),
        top_k=k, tokens="all", weights=False, logits=False, samples=len(samples),
        kinds=dict(Counter(kind for sample in samples for kind in sample.kinds)),
    )  # fmt: skip
    settings = {"file": source, "format": kind, "layers": layers, "top_k": top_k}
    plan = Plan([Part(path.name, len(samples), BATCH)])
    depends = {"data": hashlib.sha256(read_bytes(path)).hexdigest()[:16]}
    with Run.open(out, "routes import", settings, plan, depends) as run:
        for batch in run.missing():
            run.append(batch, routes_table(samples[batch.start : batch.stop]))
        run.finish(facts.summary())
    return Recording.open(out)


def export_routes(recording: Recording, kind: str, out: Path) -> int:
    """Write a recording's expert ids in the format of another tool; returns the number of sequences.

    Raises:
        R2T2Error: not all tokens were recorded, a sequence lacks token ids or routes that the format needs, or the file
            cannot be written.
    """
    if recording.facts.tokens != "all" or "sample" in recording.facts.kinds:
        why = "whole samples" if "sample" in recording.facts.kinds else f"--tokens {recording.facts.tokens}"
        raise R2T2Error(f"{recording.folder} holds routes of {why}; --format {kind} needs those of --tokens all")
    if kind == "maxtext":
        arrays = _maxtext_arrays(list(recording.samples()))
        atomic_write(out, lambda draft: _write_archive(draft, arrays))
        return len(arrays["routed_experts"])
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        with draft.open("w", encoding="utf-8") as file:
            for sample in recording.samples():
                file.write(json.dumps(_response(sample, kind)) + "\n")
                count += 1

    atomic_write(out, write)
    return count


def _responses(path: Path, kind: str, layers: int | None, top_k: int | None) -> Iterator[SampleRoutes]:
    """The sequences of a file with one response per line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would also cut at U+2028
        if not line.strip():
            continue
        source = parse_json(line, f"{path}:{number}", lines=False)
        content = source.as_type(dict)
        if kind == "sglang":
            yield _sglang(source, number, str(path), layers or 0, top_k or 0)
            continue
        prompt = _token_ids(source, content, ("prompt_token_ids",))
        choices = content.get("choices", content.get("outputs"))
        if not isinstance(choices, list) or not choices or not all(isinstance(each, dict) for each in choices):
            raise source.error("'choices' is not a list of completions, each an object")
        name = str(content.get("request_id", content.get("id", number)))
        for index, choice in enumerate(choices):
            answer = _token_ids(source, choice, ("token_ids",))
            decode = _npy if kind == "vllm" else _base85
            routes = _routes(source, decode(source, choice.get("routed_experts")), len(prompt) + len(answer))
            label = name if len(choices) == 1 else f"{name}#{index}"
            yield _sample(label, str(path), str(choice.get("text") or ""), prompt, answer, routes)


def _sglang(source: Json, number: int, path: str, layers: int, top_k: int) -> SampleRoutes:
    content = source.content
    meta = content.get("meta_info") or {}
    extension = content.get("sgl_ext") or content.get("sglext") or {}
    if not isinstance(meta, dict) or not isinstance(extension, dict):
        raise source.error("'meta_info' and 'sgl_ext' are objects")
    listed = {
        side: [entry[1] for entry in entries if isinstance(entry, list) and len(entry) > 1]
        for side in ("input", "output")
        if isinstance(entries := meta.get(f"{side}_token_logprobs"), list)
    }
    prompt = _token_ids(source, content | {"listed": listed.get("input")}, ("input_ids", "listed"))
    answer = _token_ids(source, content | {"listed": listed.get("output")}, ("output_ids", "listed"))
    flat = _int32(source, _base64(source, meta.get("routed_experts", extension.get("routed_experts"))))
    if len(flat) % (layers * top_k):
        raise source.error(f"'routed_experts' has {len(flat)} ids, no multiple of {layers} layers x {top_k} experts")
    routes = _routes(source, flat.reshape(-1, layers, top_k), len(prompt) + len(answer))
    name = str(meta.get("id", content.get("id", number)))
    return _sample(name, path, str(content.get("text") or ""), prompt, answer, routes)


def _sample(
    name: str, source: str, text: str, prompt: Sequence[int], answer: Sequence[int], routes: np.ndarray
) -> SampleRoutes:
    count = len(prompt) + len(answer)
    kinds = ["text"] * len(prompt) + ["answer"] * len(answer)
    tokens = np.asarray([*prompt, *answer], np.int32)
    return SampleRoutes(name, source, "", text, tokens, np.arange(count), kinds, routes)


def _token_ids(source: Json, content: dict[str, Any], names: Sequence[str]) -> list[int]:
    """The token ids under the first of the names that is present."""
    for name in names:
        ids = content.get(name)
        if ids is None:
            continue
        if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < 2**31 for token in ids):
            raise source.error(f"{name!r} is not a list of token ids")
        return ids
    raise source.error(f"{names[0]!r} is missing; record the token ids of prompt and answer together with the routes")


def _routes(source: Json, array: np.ndarray, tokens: int, unrouted: int = 0) -> Int[np.ndarray, "T N k"]:
    """The ids of all tokens; a last token without a route has `NO_EXPERT`."""
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer) or 0 in array.shape[1:]:
        raise source.error(f"'routed_experts' is {array.dtype} {array.shape}, not integers [tokens, layers, experts]")
    if array.size and not (array.min() >= -unrouted and array.max() <= LARGEST_ID):
        raise source.error(f"'routed_experts' has an id beyond 0 to {LARGEST_ID:,}")
    if len(array) not in (tokens, tokens - 1) or not len(array):
        raise source.error(f"'routed_experts' has routes of {len(array)} tokens, the sequence has {tokens}")
    missing = np.full((tokens - len(array), *array.shape[1:]), NO_EXPERT)
    return np.concatenate([array.astype(np.int16), missing.astype(np.int16)])


def _base64(source: Json, text: Any) -> bytes:
    if not isinstance(text, str):
        raise source.error("'routed_experts' is missing, or no text in base64")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # also for letters beyond ASCII
        raise source.error(f"'routed_experts' is no base64: {error}") from error


def _int32(source: Json, content: bytes) -> Int[np.ndarray, "n"]:
    if len(content) % 4:
        raise source.error(f"'routed_experts' has {len(content)} bytes, no multiple of 4")
    return np.frombuffer(content, "<i4")


def _npy(source: Json, value: Any) -> np.ndarray:
    """An array as nested lists, or as a `.npy` file in base64."""
    try:
        if isinstance(value, list):
            return np.asarray(value)
        return np.lib.format.read_array(io.BytesIO(_base64(source, value)), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        if isinstance(error, R2T2Error):
            raise
        raise source.error(f"'routed_experts' is neither a .npy file nor a rectangular list: {error}") from error


def _base85(source: Json, value: Any) -> np.ndarray:
    """An array as {"data": base85 of its bytes, "shape": [...], "dtype": "int32" if left out}."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), str):
        raise source.error("'routed_experts' is not an object with 'data' in base85 and 'shape'")
    shape, dtype = value.get("shape"), value.get("dtype", "int32")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise source.error("'routed_experts.shape' is not a list of sizes")
    if dtype not in ("uint8", "uint16", "int16", "int32"):
        raise source.error(f"'routed_experts.dtype' is {dtype!r}; it is uint8, uint16, int16 or int32")
    try:
        content = base64.b85decode(value["data"])
    except ValueError as error:
        raise source.error(f"'routed_experts.data' is no base85: {error}") from error
    size = np.dtype(dtype).itemsize
    if len(content) != math.prod([size, *shape]):
        raise source.error(f"'routed_experts.data' has {len(content)} bytes, its shape {shape} needs another number")
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _response(sample: SampleRoutes, kind: str) -> dict[str, Any]:
    """A sequence as the response of a tool; the last token's route is left out, as engines do."""
    ids = sample.experts[:-1].astype("<i4")
    if (sample.tokens < 0).any() or (ids == NO_EXPERT).any() or not len(ids):
        lacking = "token ids" if (sample.tokens < 0).any() else "routes"
        raise R2T2Error(f"sample {sample.id!r} has tokens without {lacking}, which --format {kind} needs")
    answer = np.asarray(sample.kinds) == "answer"
    prompt, completion = sample.tokens[~answer].tolist(), sample.tokens[answer].tolist()
    if kind == "sglang":
        encoded = base64.b64encode(ids.tobytes()).decode()
        meta = {"id": sample.id, "prompt_tokens": len(prompt), "completion_tokens": len(completion)}
        facts = {"text": sample.prediction, "input_ids": prompt, "output_ids": completion}
        return facts | {"meta_info": meta | {"routed_experts": encoded}}
    if kind == "vllm":
        file = io.BytesIO()
        np.save(file, ids)
        routes: Any = base64.b64encode(file.getvalue()).decode()
    else:
        routes = {"data": base64.b85encode(ids.tobytes()).decode(), "shape": list(ids.shape)}
    choice = {"index": 0, "text": sample.prediction, "token_ids": completion, "routed_experts": routes}
    return {"request_id": sample.id, "prompt_token_ids": prompt, "choices": [choice]}


def _maxtext(path: Path) -> Iterator[SampleRoutes]:
    """The sequences of an archive with `routed_experts` [B, T, N, k], -1 for padding, and optionally `inputs` [B, T]
    and `inputs_segmentation` [B, T], 0 for padding.
    """
    content = read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
    except Exception as error:  # a damaged archive raises what zipfile, zlib, ast and NumPy raise
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{path} is no archive of arrays ({reason}); save it with numpy.savez") from error
    routes = arrays.get("routed_experts", np.zeros(0))
    where = Json(str(path), "", None, lines=False)
    if routes.ndim != 4 or not np.issubdtype(routes.dtype, np.integer):
        raise where.error(f"'routed_experts' is {routes.dtype} {routes.shape}, not integers [batch, tokens, layers, k]")
    for name in ("inputs", "inputs_segmentation"):
        if name in arrays and (
            arrays[name].shape != routes.shape[:2] or not np.issubdtype(arrays[name].dtype, np.integer)
        ):
            raise where.error(f"{name!r} is {arrays[name].dtype} {arrays[name].shape}, not integers {routes.shape[:2]}")
    routed = (routes != NO_EXPERT).all(axis=(2, 3))  # [B, T]
    real = arrays["inputs_segmentation"] > 0 if "inputs_segmentation" in arrays else routed
    for i, rows in enumerate(real):
        if not routed[i][rows].any():
            raise where.error(f"sequence {i} has no token with a route")
        count = int(rows.sum())
        tokens = arrays["inputs"][i][rows] if "inputs" in arrays else np.full(count, -1)
        if not (tokens.min() >= -1 and tokens.max() < 2**31):
            raise where.error(f"'inputs' of sequence {i} has a token id beyond int32, or below -1")
        ids = _routes(where, routes[i][rows], count, unrouted=1)
        yield SampleRoutes(
            str(i), str(path), "", "", tokens.astype(np.int32), np.arange(count), [TOKEN_KINDS[0]] * count, ids
        )


def _maxtext_arrays(samples: Sequence[SampleRoutes]) -> dict[str, np.ndarray]:
    """The sequences as arrays, padded on the right."""
    length = max(len(sample.tokens) for sample in samples)

    def padded(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
        rest = [((0, length - len(array)), *((0, 0),) * (array.ndim - 1)) for array in arrays]
        return np.stack([
            np.pad(array.astype(np.int32), width, constant_values=fill)
            for array, width in zip(arrays, rest, strict=True)
        ])  # fmt: skip

    arrays = {
        "routed_experts": padded([sample.experts for sample in samples], NO_EXPERT),
        "inputs_segmentation": padded([np.ones(len(sample.tokens)) for sample in samples], 0),
    }
    if all((sample.tokens >= 0).all() for sample in samples):
        arrays["inputs"] = padded([sample.tokens for sample in samples], 0)
    return arrays


def _write_archive(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
