"""Files from outside, checked as they are read: text, `.npy` arrays and Parquet tables.

Every problem is an `R2T2Error` of one line with the file, the problem and the remedy that the caller names. The content
is data: nothing in it is executed, and paths in it stay below their folder (`path_below`).
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

FLOATING = ("float16", "float32", "float64")
THREADED_BYTES = 1 << 20  # of a Parquet file; a smaller one is read faster without threads


def content_kind(content: bytes) -> str:
    """A phrase for content that stands in place of other files (`an HTML page`); empty if it is none of these."""
    head = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "an HTML page, perhaps of a login or an error; fetch the file again"
    return "compressed with gzip; unpack it" if head.startswith(b"\x1f\x8b") else ""


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        R2T2Error: the file cannot be read.
    """
    try:
        if not path.is_relative_to("/dev"):  # where a shell's `<(command)` is
            check_regular(path)
        return path.read_bytes()
    except R2T2Error:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise R2T2Error(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may block its reader for ever; raises `OSError` if there is no file."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise R2T2Error(f"cannot read {path}: it is no regular file")


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte order mark; raises as `read_bytes` and `decode_text`."""
    return decode_text(read_bytes(path), str(path))


def decode_text(content: bytes, where: str) -> str:
    """UTF-8 text without a byte order mark.

    Raises:
        R2T2Error: the content is not UTF-8 text; the message begins with `where`.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if kind := content_kind(content):
            raise R2T2Error(f"{where} is {kind}") from error
        guess = ", perhaps UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
        line = content.count(b"\n", 0, error.start) + 1
        raise R2T2Error(f"{where}: not UTF-8 text{guess} (line {line}: {error.reason}); save it as UTF-8") from error


def path_below(folder: Path, name: str, where: str) -> Path:
    """`folder/name`, for a name that data contains.

    Raises:
        R2T2Error: the name is absolute, leads out of the folder, or cannot be the name of a file.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not name or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise R2T2Error(f"{where} names the file {name!r}, which is not below {folder}; files of data stay below it")
    return folder / name


def open_array(
    path: Path, dtypes: Collection[str], shape: tuple[int | None, ...], remedy: str, described_by: str = ""
) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped.

    Args:
        path: the file.
        dtypes: names of the permitted dtypes, in the byte order of this machine.
        shape: the required shape; `None` for any size.
        remedy: what to do about any problem.
        described_by: the file that states the shape, for errors.

    Raises:
        R2T2Error: the file is missing or damaged, or has another dtype or shape.
    """
    try:
        check_regular(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise R2T2Error(f"{path} is missing; {remedy}") from None
    except Exception as error:  # a damaged header raises what ast, NumPy and mmap raise
        raise R2T2Error(f"{path} is damaged ({' '.join(str(error).split())[:200]}); {remedy}") from error
    if array.dtype not in [np.dtype(name) for name in dtypes]:
        raise R2T2Error(f"{path} has dtype {array.dtype}, not {' or '.join(dtypes)}; {remedy}")
    if len(array.shape) != len(shape) or any(b not in (None, a) for a, b in zip(array.shape, shape, strict=True)):
        expected = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        says = f", {described_by} says {expected}" if described_by else f", not {expected}"
        raise R2T2Error(f"{path} has shape {array.shape}{says}; {remedy}")
    return array


def read_parquet(
    path: Path, remedy: str, schema: pa.Schema | None = None, columns: list[str] | None = None, checksums: bool = False
) -> pa.Table:
    """The table of a Parquet file, validated in full.

    Args:
        path: the file.
        remedy: what to do about any problem.
        schema: columns that must exist with these types; `None` if any will do.
        columns: the columns to read; `None` for all.
        checksums: verify the checksums of pages, and compare both copies of the columns' names and types.

    Raises:
        R2T2Error: the file is missing, damaged or no Parquet, or lacks a column or has one of another type.
    """
    import pyarrow.parquet as pq

    def read() -> pa.Table:
        file = pq.ParquetFile(path, page_checksum_verification=checksums)
        table = file.read(columns=columns, use_threads=path.stat().st_size >= THREADED_BYTES)
        table.validate(full=True)
        if checksums and _stored_columns(file) != [(field.name, field.type) for field in file.schema_arrow]:
            raise ValueError("the two copies of its columns' names and types differ")
        return table

    table = _parquet(path, remedy, read)
    check_columns(path, table.schema, schema, remedy)
    return table


def _stored_columns(file: Any) -> list[tuple[str, Any]]:
    """Names and types of the columns in the Arrow schema that PyArrow stores in the metadata of a Parquet file."""
    import pyarrow as pa

    stored = (file.metadata.metadata or {}).get(b"ARROW:schema", b"")
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(stored)))
    return [(field.name, field.type) for field in schema]


def read_parquet_schema(path: Path, remedy: str, schema: pa.Schema | None = None) -> tuple[pa.Schema, int]:
    """The columns and the number of rows of a Parquet file; raises as `read_parquet`."""
    import pyarrow.parquet as pq

    metadata = _parquet(path, remedy, lambda: pq.read_metadata(path))
    columns = _parquet(path, remedy, metadata.schema.to_arrow_schema)
    check_columns(path, columns, schema, remedy)
    return columns, metadata.num_rows


def check_columns(path: Path, columns: pa.Schema, expected: pa.Schema | None, remedy: str) -> None:
    """Check that the columns of a table include the expected ones with their types.

    Raises:
        R2T2Error: a column is missing, repeated or has another type.
    """
    for field in expected or ():
        count = columns.names.count(field.name)
        if count != 1:
            problem = "lacks the column" if not count else "has several columns"
            raise R2T2Error(f"{path} {problem} {field.name!r}; {remedy}")
        kind = columns.field(field.name).type
        if kind != field.type:
            raise R2T2Error(f"{path}: column {field.name!r} has type {kind}, not {field.type}; {remedy}")


def check_text_columns(path: Path, columns: pa.Schema, expected: Collection[str], remedy: str) -> None:
    """Check that a table has columns of text, or of nothing but empty cells; raises as `check_columns`."""
    import pyarrow as pa

    kinds = {name: columns.field(name).type for name in expected if columns.names.count(name) == 1}
    texts = {name: pa.null() if pa.types.is_null(kind) else pa.string() for name, kind in kinds.items()}
    check_columns(path, columns, pa.schema([(name, texts.get(name, pa.string())) for name in expected]), remedy)


def _parquet(path: Path, remedy: str, read: Callable[[], T]) -> T:
    import pyarrow as pa

    try:
        check_regular(path)
        return read()
    except FileNotFoundError:
        raise R2T2Error(f"{path} is missing; {remedy}") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"cannot read {path} ({reason}); {remedy}") from error
