"""The layouts of other tools' files of routes (docs/routes.md): one JSON object per line, or an archive of arrays.

Axis letters: T tokens, N layers, k chosen experts, B sequences.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from r2t2_jax.contract import TOKEN_KINDS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.recording import NO_EXPERT, SampleRoutes
from r2t2_jax.routes.replay import PackedRoutes
from r2t2_jax.runs.atomic_io import atomic_write
from r2t2_jax.runtime.typed_files import read_bytes, read_text
from r2t2_jax.runtime.typed_json import Json, parse_json

LARGEST_ID = np.iinfo(np.int16).max


def read_rows(path: Path, kind: str, layers: int | None, top_k: int | None) -> Iterator[PackedRoutes]:
    """The rows of a file: a sequence each, or several that MaxText packed.

    Args:
        path: the file.
        kind: `vllm`, `sglang`, `maxtext` or `verifiers`.
        layers, top_k: sizes of the flat arrays of `sglang`.

    Raises:
        R2T2Error: the file cannot be read; the message names line or array.
    """
    return _maxtext(path) if kind == "maxtext" else _responses(path, kind, layers, top_k)


def write_rows(samples: Iterator[SampleRoutes], kind: str, out: Path) -> int:
    """Write the expert ids of samples as a file of a tool; returns the number of samples.

    Raises:
        R2T2Error: a sample lacks token ids or routes that the format needs, or the file cannot be written.
    """
    if kind == "maxtext":
        arrays = _maxtext_arrays(list(samples))
        atomic_write(out, lambda draft: _write_archive(draft, arrays))
        return len(arrays["routed_experts"])
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            for sample in samples:
                file.write(json.dumps(_response(sample, kind)) + "\n")
                count += 1

    atomic_write(out, write)
    return count


def _responses(path: Path, kind: str, layers: int | None, top_k: int | None) -> Iterator[PackedRoutes]:
    """The sequences of a file with one response per line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would also cut at U+2028
        if not line.strip():
            continue
        source = parse_json(line, f"{path}:{number}", lines=False)
        content = source.as_type(dict)
        if kind != "sglang":
            _token_ids(source, content, ("prompt_token_ids",))
        choices = content.get("choices", content.get("outputs", [content] if kind == "sglang" else None))
        if not isinstance(choices, list) or not choices or not all(isinstance(each, dict) for each in choices):
            raise source.error("'choices' is not a list of completions, each an object")
        for index, choice in enumerate(choices):
            name, prompt, answer, routes = (
                _sglang(source, choice, number, layers or 0, top_k or 0)
                if kind == "sglang"
                else _vllm(source, choice, number, _npy if kind == "vllm" else _base85)
            )
            count = len(prompt) + len(answer)
            kinds = ["text"] * len(prompt) + ["answer"] * len(answer)
            label = name if len(choices) == 1 else f"{name}#{index}"
            message = choice.get("message")
            text = choice.get("text") or (message.get("content") if isinstance(message, dict) else "") or ""
            tokens = np.asarray([*prompt, *answer], np.int32)
            ids = _routes(source, routes, count)
            sample = SampleRoutes(label, str(path), "", str(text), tokens, np.arange(count), kinds, ids)
            yield PackedRoutes(sample, (count,))


_Response = tuple[str, list[int], list[int], np.ndarray]  # its name, prompt, answer and routes


def _vllm(source: Json, choice: dict[str, Any], number: int, decode: Callable[[Json, Any], np.ndarray]) -> _Response:
    """A completion of vLLM or verifiers; the routes of the prompt may be apart, in `prompt_routed_experts`."""
    content = source.content
    prompt = _token_ids(source, content, ("prompt_token_ids",))
    answer = _token_ids(source, choice, ("token_ids",))
    routes, before = choice.get("routed_experts"), content.get("prompt_routed_experts")
    if before is None:
        array = decode(source, routes)
    else:  # a completion of one token has no routes of its own
        parts = [decode(source, each) for each in (before, routes) if each is not None]
        if len(parts[0]) != len(prompt) or {part.shape[1:] for part in parts} != {parts[0].shape[1:]}:
            shapes = " and ".join(str(part.shape) for part in parts)
            raise source.error(f"routes of prompt and answer are {shapes}, the prompt has {len(prompt)} tokens")
        array = np.concatenate(parts)
    return str(content.get("request_id", content.get("id", number))), prompt, answer, array


def _sglang(source: Json, choice: dict[str, Any], number: int, layers: int, top_k: int) -> _Response:
    """A response of SGLang's native endpoint, or a completion of the one that is compatible with OpenAI's."""
    content = source.content | choice
    meta = content.get("meta_info") or {}
    extension = content.get("sgl_ext") or content.get("sglext") or {}
    if not isinstance(meta, dict) or not isinstance(extension, dict):
        raise source.error("'meta_info' and 'sgl_ext' are objects")
    listed = {
        side: [entry[1] for entry in entries if isinstance(entry, list) and len(entry) > 1]
        for side in ("input", "output")
        if isinstance(entries := meta.get(f"{side}_token_logprobs"), list)
    }
    prompt = _token_ids(source, content | {"listed": listed.get("input")}, ("input_ids", "prompt_token_ids", "listed"))
    answer = _token_ids(source, content | {"listed": listed.get("output")}, ("output_ids", "token_ids", "listed"))
    flat = _int32(source, _base64(source, meta.get("routed_experts", extension.get("routed_experts"))))
    if len(flat) % (layers * top_k):
        raise source.error(f"'routed_experts' has {len(flat)} ids, no multiple of {layers} layers x {top_k} experts")
    return str(meta.get("id", content.get("id", number))), prompt, answer, flat.reshape(-1, layers, top_k)


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
    except R2T2Error:
        raise
    except Exception as error:  # a damaged header raises what tokenize, ast and NumPy raise
        reason = " ".join(str(error).split())[:200]
        raise source.error(f"'routed_experts' is neither a .npy file nor a rectangular list: {reason}") from error


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


def _maxtext(path: Path) -> Iterator[PackedRoutes]:
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
        sample = SampleRoutes(
            str(i), str(path), "", "", tokens.astype(np.int32), np.arange(count), [TOKEN_KINDS[0]] * count, ids
        )
        packed = arrays["inputs_segmentation"][i][rows] if "inputs_segmentation" in arrays else np.ones(count, int)
        starts = np.flatnonzero(np.diff(packed)) + 1
        yield PackedRoutes(sample, tuple(np.diff([0, *starts, count]).tolist()))


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
