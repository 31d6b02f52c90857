"""For any content of a file that is read, the content is read or refused in one line that names the file."""

import base64
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas, open_atlas, save_atlas
from r2t2_jax.bank.importing import import_bank
from r2t2_jax.cli.answer import read_routing
from r2t2_jax.cli.evaluate import Eval
from r2t2_jax.cli.parsing import saved_arguments
from r2t2_jax.datasets.registry import load_jsonl
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.statistics import models_of
from r2t2_jax.methods import read_preset
from r2t2_jax.plugins import load, port_of
from r2t2_jax.retrieval.exact import ExactIndex, read_index
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords
from r2t2_jax.routes.exchange import import_routes
from r2t2_jax.routes.recording import Recording, routes_table
from r2t2_jax.runs.folder import seconds_per_sample
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.typed_files import open_array, path_below, read_parquet
from r2t2_jax.runtime.typed_json import parse_json
from r2t2_jax.steering.files import parse_steering, read_steering
from r2t2_jax.steering.tables import bind
from tests.robustness.writers import TARGET, WRITERS, facts, recorded_samples
from tests.toy import MODEL, toy_bank

BANK = dataclasses.replace(
    toy_bank(6),
    records=[{"id": str(i), "question": f"how many {i}?"} for i in range(6)],
    model_fingerprint="toy@1",
    spec=MODEL.spec,
)
LAYERS, EXPERTS = MODEL.spec.shape
POINTS = np.full((3, LAYERS, EXPERTS), 1 / EXPERTS, np.float32)
ATLAS = Atlas(POINTS, np.zeros((6, 3), np.uint8), None, "toy@1", MODEL.spec.experts, tuple(map(str, range(6))))
RUN = {"command": "eval", "settings": {"seed": 0}, "plan": [{"name": "a", "samples": 2, "batch": 1, "table": "rows"}]}
NUMBERS = {
    "accuracy": 0.5, "ci95": [0.1, 0.9], "wrong_to_right": 0, "right_to_wrong": 0, "evaluations_per_sample": 1,
    "gap_recovered": None,
}  # fmt: skip
FAMILY = {"n": 2, "accuracy": {"base": 0.5}}
SUMMARY = {"schema": 2, "models": {"toy": {"n": 2, "strategies": {"base": NUMBERS}, "families": {"": FAMILY}}}}
REFERENCE = {
    "id": 1, "question": "what color ?", "image_path": "a.png", "model_answer": "red", "ground_truth": "red",
    "is_correct": True, "weights": {"a": 0.5, "b": 0.5},
}  # fmt: skip
QUESTION = {"image": "a.png", "question": "what color?", "answer": "red", "options": ["red"], "id": "1"}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def with_checksum(content: Any) -> Any:
    """A manifest with the checksum that a program would write which follows docs/bank.md."""
    if not isinstance(content, dict):
        return content
    plain = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return plain | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def read_bank(folder: Path, content: Any) -> object:
    write(folder / "bank.json", with_checksum(content))
    return ReferenceBank.open(folder)


def read_atlas(folder: Path, content: Any) -> object:
    write(folder / "atlas.json", content)
    return open_atlas(folder)


def read_run(folder: Path, content: Any) -> object:
    write(folder / "run.json", content)
    return open_run(folder).rows


def read_summary(folder: Path, content: Any) -> object:
    write(folder / "run.json", RUN)
    write(folder / "summary.json", content)
    return models_of(open_run(folder).summary, folder)


def read_recording(folder: Path, content: Any) -> object:
    write(folder / "summary.json", content)
    return list(Recording.open(folder).samples())


def read_responses(folder: Path, content: Any) -> object:
    shutil.rmtree(folder.parent / "imported", ignore_errors=True)
    return import_routes(write(folder / "responses.jsonl", content), "vllm", folder.parent / "imported")


def read_config(folder: Path, content: Any) -> object:
    return saved_arguments("eval", Eval, ["--config", str(write(folder / "config.json", content))])


READERS: dict[str, tuple[Callable[[Path, Any], object], Any]] = {
    "atlas.json": (read_atlas, None),
    "bank.json": (read_bank, None),
    "config": (read_config, {"command": "eval", "settings": {"model": "pocket", "seed": 1}}),
    "index.json": (
        lambda folder, content: read_index(write(folder / "index.json", content).parent, BANK.embeddings),
        {"kind": "exact", "metric": "cosine", "embeddings": "0" * 64},
    ),
    "model.json": (lambda folder, content: port_of(write(folder / "model.json", content).parent), {"port": "pocket"}),
    "preset": (
        lambda folder, content: read_preset(write(folder / "preset.json", content)),
        {"settings": {"neighborhood": {"k": 3}, "descent": {"learning_rate": 0.1}}},
    ),
    "questions": (lambda folder, content: load_jsonl(write(folder / "q.jsonl", content)), QUESTION),
    "recording": (read_recording, None),
    "references": (
        lambda folder, content: import_bank(write(folder / "references.json", content), HashedBagOfWords()),
        [REFERENCE],
    ),
    "responses": (read_responses, None),
    "routing": (lambda folder, content: read_routing(f"@{write(folder / 'routing.json', content)}"), [[0.5, 0.5]]),
    "run.json": (read_run, RUN),
    "steering": (
        lambda folder, content: read_steering(write(folder / "steer.json", content)),
        {"steering": 1, "rules": [{"layers": "1-2", "boost": {"a": 1.5}, "lambda": 0.5}, {"mask": [0, "b"]}]},
    ),
    "summary.json": (read_summary, SUMMARY),
    "timings.jsonl": (
        lambda folder, content: seconds_per_sample(write(folder / "timings.jsonl", content).parent),
        {"part": "a", "samples": 2, "seconds": 0.5, "first": True},
    ),
}
BROKEN = {
    "deep": "[" * 100_000,
    "huge integer": '{"schema": ' + "9" * 5000 + "}",
    "large number": '{"schema": 1e999}',
    "NaN": '{"schema": NaN}',
    "lone surrogate": '{"schema": "\\ud83d"}',
    "lone surrogate in a key": '{"\\udc00": 1}',
    "repeated key": '{"schema": 1, "schema": 1}',
    "cut off": '{"schema": ',
    "HTML": "<!doctype html><p>log in</p>",
    "Git LFS": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n",
    "list": "[]",
    "null": "null",
    "number": "7",
    "empty": "",
}
LENIENT = {  # what else may be an empty file, a list or a number
    ("routing", "list"), ("routing", "null"), ("routing", "number"), ("questions", "empty"), ("timings.jsonl", "empty"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """For each reader a folder with all other files, and the valid content of the file that it reads."""
    top = tmp_path_factory.mktemp("readers")
    BANK.save(top / "bank.json")
    save_atlas(ATLAS, top / "atlas.json", {})
    valid = {name: content for name, (_, content) in READERS.items()}
    for name in ("bank.json", "atlas.json"):
        valid[name] = json.loads((top / name / name).read_text(encoding="utf-8"))
    WRITERS["recording"](top, 1)
    (top / TARGET).rename(top / "recording")
    valid["recording"] = json.loads((top / "recording" / "summary.json").read_text(encoding="utf-8"))
    WRITERS["exported"](top, 0)
    valid["responses"] = json.loads((top / TARGET).read_text(encoding="utf-8").splitlines()[0])
    valid["index.json"]["embeddings"] = "0" * 64
    ExactIndex.build(BANK.embeddings)
    return {name: (top / name, valid[name]) for name in READERS}


def error_of(read: Callable[[], object]) -> str:
    """The error that a function raises; empty if it raises none."""
    try:
        read()
    except R2T2Error as error:
        return str(error)
    return ""


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(R2T2Error) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_json_of_ours_is_named_with_its_file(
    name: str, broken: str, folders: dict[str, tuple[Path, Any]]
) -> None:
    folder, _ = folders[name]
    if (name, broken) in LENIENT or name == "timings.jsonl":  # a line that is cut off is no error there
        return
    line = refusal(lambda: READERS[name][0](folder, BROKEN[broken]))
    assert str(folder) in line


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b'{"a": "\xe9"}', b"\x00\x01\x02", b"\x1f\x8b\x08\x00"])
@pytest.mark.parametrize("name", READERS)
def test_other_encodings_are_refused(name: str, content: bytes, folders: dict[str, tuple[Path, Any]]) -> None:
    folder, valid = folders[name]
    error_of(lambda: READERS[name][0](folder, valid))  # writes the file
    files = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl") and path.name != "ids.json"]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    text = newest.read_text(encoding="utf-8")
    newest.write_bytes(content)
    reread = {
        "bank.json": lambda: ReferenceBank.open(folder), "atlas.json": lambda: open_atlas(folder),
        "run.json": lambda: open_run(folder), "summary.json": lambda: open_run(folder).summary,
        "preset": lambda: read_preset(newest), "questions": lambda: load_jsonl(newest),
        "references": lambda: import_bank(newest, HashedBagOfWords()), "routing": lambda: read_routing(f"@{newest}"),
        "model.json": lambda: port_of(folder), "index.json": lambda: read_index(folder, BANK.embeddings),
        "config": lambda: saved_arguments("eval", Eval, ["--config", str(newest)]),
        "timings.jsonl": lambda: seconds_per_sample(folder), "steering": lambda: read_steering(newest),
        "recording": lambda: Recording.open(folder),
        "responses": lambda: import_routes(newest, "vllm", folder.parent / "imported"),
    }  # fmt: skip
    if not (name == "timings.jsonl" and content == b"\x00\x01\x02"):
        assert str(folder) in refusal(reread[name])
    newest.write_text(text, encoding="utf-8")


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of keys to every nested value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inside for path in ((*above, key), *paths(item, (*above, key)))]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The content with another value at a path, or without it for `...`."""
    copy = json.loads(json.dumps(content))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return copy


VALUES = st.one_of(
    st.just(...),
    st.sampled_from([None, True, -1, 0, 2**62, 0.5, -1e300, "", "x", "../x", "/etc/passwd", [], [[]], {}, {"x": []}]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    ),
)


@pytest.mark.filterwarnings("ignore:.*not read:r2t2_jax.errors.R2T2Warning")
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_change_is_read_or_refused(name: str, folders: dict[str, tuple[Path, Any]], data: st.DataObject) -> None:
    folder, valid = folders[name]
    path = data.draw(st.sampled_from([*paths(valid), ("later",)]) if isinstance(valid, dict) else st.just((0,)))
    value = data.draw(VALUES)
    if path == ("later",) and value is ...:
        return
    assert "\n" not in error_of(lambda: READERS[name][0](folder, changed(valid, path, value)))


def test_an_unknown_or_missing_field_of_a_bank_is_named_with_its_line(folders: dict[str, tuple[Path, Any]]) -> None:
    folder, valid = folders["bank.json"]
    line = refusal(lambda: read_bank(folder, valid | {"later": 1}))
    assert "bank.json:1: unknown field 'later'; another version of r2t2-jax may have written it" in line
    for path in [("spec",), ("rows",), ("files", "routing.npy", "bytes"), ("fingerprints", "model")]:
        dotted = ".".join(path)
        assert f"'{dotted}' is missing" in refusal(lambda path=path: read_bank(folder, changed(valid, path, ...)))
    mismatch = refusal(lambda: read_bank(folder, changed(valid, ("routing_shape", 1), "x")))
    assert "'routing_shape[1]' must be a whole number, not a string" in mismatch
    assert "is not below" in refusal(
        lambda: read_bank(folder, valid | {"files": valid["files"] | {"../x": valid["files"]["routing.npy"]}})
    )


def test_errors_of_json_name_line_and_field() -> None:
    kinds = dict[str, list[int]]
    cases = {
        '{"a": [1,\n2,\n"x"]}': "f:3: 'a[2]' must be a whole number, not a string",
        '{"a": [1],\n"b": {}}': "f:2: 'b' must be a list, not an object",
        '{"a": [1],\n"a": []}': "f:2: the key 'a' occurs twice",
        '{"a":\n[NaN]}': "f:2: not JSON: 'a[0]' is NaN",
        '{"a": [1\n': "f: not JSON, perhaps cut off: Expecting ',' delimiter (line 2, column 1)",
        '{"a": [1' + "0" * 30 + "]}": "f:1: 'a[0]' is 10000000000000000000... (31 characters), which exceeds 64 bits",
    }
    for text, cause in cases.items():
        assert refusal(lambda text=text: parse_json(text, "f").as_type(kinds)) == cause
    assert parse_json('{"a": [1]}', "f").as_type(kinds) == {"a": [1]}
    assert parse_json('"\\ud83d\\ude00"', "f").content == "\U0001f600"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("routing.npy", lambda a: -a),
        ("routing.npy", lambda a: a * 9),
        (
            "routing.npy",
            lambda a: a * (np.arange(a.shape[1]) > 0)[:, None].astype(a.dtype),
        ),  # one layer of zeros
        ("routing.npy", lambda a: a * np.float32("nan")),
        ("routing.npy", lambda a: a.astype(np.int32)),
        ("routing.npy", lambda a: a[..., :-1]),
        ("embeddings.npy", lambda a: a * np.float32("nan")),
        ("embeddings.npy", lambda a: a * np.float32(7)),
        ("embeddings.npy", lambda a: a.astype("U8")),
        ("embeddings.npy", lambda a: a.astype(object)),
        ("embeddings.npy", lambda a: a[:-1]),
    ],
)
def test_values_of_a_bank_are_checked_where_checksums_are_right(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    BANK.save(tmp_path / "bank")
    array = np.load(tmp_path / "bank" / name)
    np.save(tmp_path / "bank" / name, change(array))
    assert name in refusal(lambda: ReferenceBank.open(fix_checksums(tmp_path / "bank")))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("points.npy", lambda a: -a),
        ("points.npy", lambda a: a * np.float32("nan")),
        ("points.npy", lambda a: a[:-1]),
        ("losses.npy", lambda a: a / 255),
        ("losses.npy", lambda a: a.astype(np.int64) + 1000),
        ("losses.npy", lambda a: a[:, :-1]),
    ],
)
def test_values_of_an_atlas_are_checked(tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    save_atlas(ATLAS, tmp_path / "atlas", {})
    array = np.load(tmp_path / "atlas" / name)
    np.save(tmp_path / "atlas" / name, change(array))
    assert name in refusal(lambda: open_atlas(fix_checksums(tmp_path / "atlas")))


def fix_checksums(folder: Path) -> Path:
    """The folder of a bank or an atlas, with the checksums of its files as they are now."""
    file = folder / ("bank.json" if (folder / "bank.json").exists() else "atlas.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    for name in content["files"]:
        raw = (folder / name).read_bytes()
        quick = hashlib.sha256(len(raw).to_bytes(8, "little") + raw).hexdigest()
        content["files"][name] = {"bytes": len(raw), "quick": quick, "sha256": hashlib.sha256(raw).hexdigest()}
    write(file, with_checksum(content) if file.name == "bank.json" else content)
    return folder


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights", lambda a: a * np.float16("nan")),
        ("weights", lambda a: a * np.float16("inf")),
        ("weights", lambda a: -a),
        ("weights", lambda a: a[:-1]),
        ("weights", lambda a: a[..., :1]),
        ("experts", lambda a: a + 2),
        ("experts", lambda a: a[:, :1]),
        ("tokens", lambda a: a[:-1]),
        ("positions", lambda a: a[:-1]),
        ("category", lambda text: None),
        ("id", lambda text: None),
        ("kinds", lambda kinds: ["text", "text", "sound"]),
    ],
)
def test_values_of_a_recording_are_checked(tmp_path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """The rows have one shape in a file, so both samples are changed."""
    samples = [replace(each, **{name: change(getattr(each, name))}) for each in recorded_samples(0)]
    plan = Plan([Part("set", samples=2, batch=2)])
    with Run.open(tmp_path, "routes record", {}, plan) as run:
        run.append(plan.batches[0], routes_table(samples))
        run.finish(facts().summary())
    refusal(lambda: list(Recording.open(tmp_path).samples()))


def test_a_recording_with_fewer_samples_than_it_states_is_refused(tmp_path: Path) -> None:
    plan = Plan([Part("set", samples=2, batch=2)])
    with Run.open(tmp_path, "routes record", {}, plan) as run:
        run.append(plan.batches[0], routes_table(recorded_samples(0)[:1]))
        run.finish(facts().summary())
    assert "2 samples, and the batches hold 1" in refusal(lambda: Recording.open(tmp_path))


@given(position=st.integers(0, 140), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_arrays_of_responses_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "responses"
    folder.mkdir(exist_ok=True)
    WRITERS["exported"](folder, 0)
    content = json.loads((folder / TARGET).read_text(encoding="utf-8").splitlines()[0])
    raw = bytearray(base64.b64decode(content["choices"][0]["routed_experts"]))
    raw[position % len(raw)] = value
    damaged = base64.b64encode(bytes(raw[: position % len(raw)] if cut else raw)).decode()
    content["choices"][0]["routed_experts"] = damaged
    line = error_of(lambda: read_responses(folder, content))
    assert not line or ("responses.jsonl" in line and "\n" not in line)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"boost": {"a": 1e39}}, "'rules[0].boost.a' is 1e+39; numbers of rules are at most 1e+06 in size"),
        ({"boost": {"a": 1}, "lambda": -1e300}, "'rules[0].lambda' is -1e+300"),
        ({"boost": {"a": 1e5}, "lambda": 1e5, "unit": "std"}, "rules[0].boost: it adds more than 1e+06 to a logit"),
        ({"weigh": {"a": 1e39}}, "'rules[0].weigh.a' is 1e+39"),
        ({"mask": ["9" * 5000]}, "there is no expert 99999999999999999999;"),
        ({"mask": ["a"], "layers": "9" * 5000}, "is not all, last5, 6-42, 43,45"),
        ({"mask": ["a"], "layers": "last" + "9" * 5000}, "is not all, last5, 6-42, 43,45"),
    ],
)
def test_numbers_of_steering_files_have_bounds(rule: dict[str, Any], problem: str) -> None:
    port = load("tests.toy_port:toy")
    port = replace(port, model=replace(port.model, spec=replace(port.model.spec, experts=("a", "b", "c"))))
    assert problem in refusal(lambda: bind(parse_steering({"steering": 1, "rules": [rule]}), port))


@given(position=st.integers(0, 300), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_arrays_and_tables_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    np.save(folder / "a.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    pq.write_table(pa.table({"a": ["x", "y"], "b": [1.0, 2.0]}), folder / "a.parquet")
    for name, read in (
        ("a.npy", lambda path: open_array(path, ("float32",), (3, 4), "make it again")),
        ("a.parquet", lambda path: read_parquet(path, "make it again").to_pylist()),
    ):
        path = folder / name
        raw = bytearray(path.read_bytes())
        raw[position % len(raw)] = value
        path.write_bytes(raw[: position % len(raw)] if cut else raw)
        line = error_of(lambda path=path, read=read: read(path))
        assert not line or (name in line and "\n" not in line)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "", "a\0b"])
def test_names_of_files_in_data_stay_below_their_folder(tmp_path: Path, name: str) -> None:
    assert "is not below" in refusal(lambda: path_below(tmp_path, name, "data.json"))
    assert path_below(tmp_path, "a/b.npy", "data.json") == tmp_path / "a" / "b.npy"
