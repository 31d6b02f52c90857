"""Everything that a result depends on is in the fingerprint of its run, and an atlas belongs to one bank."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas, save_atlas
from r2t2_jax.bank.storage import manifest_digest
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import read_sets
from r2t2_jax.inference.reference_cache import references_key
from r2t2_jax.plugins import load
from r2t2_jax.runs.fingerprint import numerics
from r2t2_jax.steering.files import read_steering
from tests.bank.test_storage import described
from tests.evaluation.toy_files import MODEL, write_questions


def digest(path: Path) -> str:
    (questions,) = read_sets([str(path)], None, None, 0, "", "").values()
    return questions.digest


def test_the_digest_of_a_question_set_depends_on_every_field(tmp_path: Path) -> None:
    path = write_questions(tmp_path / "questions.jsonl", 3, seed=1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    digests = {digest(path)}
    for name in ("id", "question", "answer", "category"):
        changed = [lines[0] | {name: f"other {name}"}, *lines[1:]]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))
        digests.add(digest(path))
    Image.fromarray(np.full((9, 7, 3), 50, np.uint8)).save(tmp_path / lines[0]["image"])
    digests.add(digest(path))
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_default_matmul_precision", "highest"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_enable_x64", True),
        ("jax_random_seed_offset", 1),
        ("jax_high_dynamic_range_gumbel", True),
        ("jax_softmax_custom_jvp", False),
        ("jax_disable_most_optimizations", True),
    ],
)
def test_settings_of_jax_that_change_numbers_are_recorded(name: str, value: object) -> None:
    before, usual = numerics(), jax.config.values[name]
    jax.config.update(name, value)
    try:
        assert numerics() == before | {name.removeprefix("jax_"): str(value)}
    finally:
        jax.config.update(name, usual)


def test_flags_of_xla_are_recorded_except_those_that_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "--xla_dump_to=out --xla_force_host_platform_device_count=4 --xla_cpu_enable_fast_math=true"
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert numerics()["xla_flags"] == "--xla_cpu_enable_fast_math=true"


def test_variables_that_change_numbers_are_recorded_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = numerics()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert numerics() == before | {"nvidia_tf32_override": "0"}


def test_the_digest_of_a_steering_file_is_that_of_what_was_read() -> None:
    digests = set()
    for number in (0, 1):
        reader, writer = os.pipe()
        os.write(writer, json.dumps({"steering": 1, "rules": [{"mask": [number]}]}).encode())
        os.close(writer)
        digests.add(read_steering(Path(f"/dev/fd/{reader}")).digest)
        os.close(reader)
    assert len(digests) == 2


def test_references_that_were_answered_with_other_beams_are_others() -> None:
    port = load("pocket:narrow")
    ports = (port, dataclasses.replace(port, beams=3), dataclasses.replace(port, max_new_tokens=99))
    assert len({references_key(each) for each in ports}) == 3


def atlas_of(bank: ReferenceBank, ids: list[str]) -> Atlas:
    rows = np.arange(len(ids), dtype=np.uint8)
    losses = np.stack([rows, 255 - rows], axis=1)  # [N, 2]
    points = np.full((2, *bank.spec.shape), 1 / bank.spec.shape[1], np.float32)
    return Atlas(points, losses, None, bank.model_fingerprint, bank.spec.experts, tuple(ids))


def test_the_rows_of_an_atlas_follow_the_references(tmp_path: Path) -> None:
    bank = described()
    bank.save(tmp_path / "bank")
    ids = [str(record["id"]) for record in bank.records]
    save_atlas(atlas_of(bank, ids[::-1]), tmp_path / "bank" / "atlas", {})
    atlas = ReferenceBank.open(tmp_path / "bank").require_atlas()
    assert list(atlas.ids) == ids
    assert atlas.losses[:, 0].tolist() == list(range(len(ids)))[::-1]


def test_an_atlas_of_other_references_is_refused(tmp_path: Path) -> None:
    bank = described()
    bank.save(tmp_path / "bank")
    ids = [f"other-{i}" for i in range(len(bank))]
    save_atlas(atlas_of(bank, ids), tmp_path / "bank" / "atlas", {})
    with pytest.raises(R2T2Error, match="the atlas has no row for 12 of 12 references"):
        ReferenceBank.open(tmp_path / "bank")
    with pytest.raises(R2T2Error, match="the rows of other references"):
        dataclasses.replace(bank, atlas=atlas_of(bank, ids))


def test_an_atlas_built_for_another_bank_with_the_same_ids_is_refused(tmp_path: Path) -> None:
    first, second = described(seed=1), dataclasses.replace(described(seed=2), records=described(seed=1).records)
    for name, bank in (("first", first), ("second", second)):
        bank.save(tmp_path / name)
    ids = [str(record["id"]) for record in first.records]
    atlas = dataclasses.replace(atlas_of(first, ids), bank=manifest_digest(tmp_path / "first"))
    save_atlas(atlas, tmp_path / "first" / "atlas", {})
    assert ReferenceBank.open(tmp_path / "first").atlas is not None
    shutil.copytree(tmp_path / "first" / "atlas", tmp_path / "second" / "atlas")
    with pytest.raises(R2T2Error, match="was built for another bank; build it again"):
        ReferenceBank.open(tmp_path / "second")


def test_a_run_is_not_resumed_with_another_bank_images_or_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = write_questions(tmp_path / "questions.jsonl", 6, seed=1)
    references = write_questions(tmp_path / "references.jsonl", 12, seed=3)
    bank, out = tmp_path / "bank", tmp_path / "run"
    build = ["bank", "build", "--model", MODEL, "--dataset", str(references), "--batch-size", "12"]
    assert main([*build, "--out", str(bank)]) == 0
    command = ["eval", "--model", MODEL, "--bank", str(bank), "--benchmark", str(questions), "--out", str(out)]
    command += ["--strategy", "base,kernel_regression", "--preset", "toy"]
    assert main(command) == 0

    def refused(difference: str) -> None:
        capsys.readouterr()
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "holds a run with other settings" in message and difference in message

    image = next(tmp_path.glob("questions-*.png"))
    original = image.read_bytes()
    image.write_bytes(next(tmp_path.glob("references-*.png")).read_bytes())
    refused(f"data.{questions}.questions")
    image.write_bytes(original)
    assert main(["bank", "index", str(bank), "--metric", "l2"]) == 0
    refused("bank.digest")
    shutil.rmtree(bank / "index")
    assert main(command) == 0
    shutil.move(bank, tmp_path / "earlier")
    assert main([*build, "--seed", "1", "--out", str(bank)]) == 0
    refused("bank.digest")
