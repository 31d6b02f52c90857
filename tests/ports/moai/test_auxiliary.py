"""Auxiliary records: stored and read back, built with resume, providers that are missing or faulty."""

import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from ports.moai.auxiliary import build
from ports.moai.auxiliary.build import build_records, load_providers
from ports.moai.auxiliary.providers import protocol
from ports.moai.auxiliary.providers.ocr import TextReader
from ports.moai.auxiliary.providers.scene_graphs import SceneGraphFile
from ports.moai.auxiliary.record import (
    AuxRecord,
    CachedRecords,
    Detection,
    Relation,
    SceneGraph,
    Segment,
    TextLine,
    image_key,
    predicates,
    to_row,
)
from ports.moai.auxiliary.verbalize import describe_segments
from ports.moai.config import MoAIConfig
from ports.moai.processing import MoAIProcessor, MoAITokenizer
from r2t2_jax.cli.main import main
from r2t2_jax.contract import GRAY, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals import augmentations
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from tests.ports.moai.sentences import train_tokenizer

SIZE = 10


def samples(n=12):
    """Samples of which every two have the same image."""
    images = [np.random.default_rng(i).integers(0, 256, (7, 5, 3)).astype(np.uint8) for i in range(n)]
    return [Sample(id=f"q{i}", image=images[i % n], question="?", answers=("A",)) for i in range(2 * n)]


@dataclasses.dataclass
class FakeProvider:
    """Derives its outputs from the image's first pixel; raises an error when `fuel` is used up."""

    fuel: int = 10**6
    calls: int = 0
    fingerprint: str = "fake"

    def __call__(self, image, record):
        if self.fuel <= self.calls:
            raise R2T2Error("out of fuel")
        self.calls += 1
        value = int(image[0, 0, 0])
        return dataclasses.replace(
            record,
            map=np.full((SIZE, SIZE), value % 5, np.uint8),
            segments=(Segment(value % 5, value % 133),),
            detections=(Detection(0.75, value, (0.0, 1.5, 2.0, 3.25)),),
            lines=(TextLine(f"words {value}", 0.9),) if value % 2 else (),
        )


def same(first, second):
    np.testing.assert_array_equal(first.map, second.map)
    assert dataclasses.replace(first, map=None) == dataclasses.replace(second, map=None) or all(
        getattr(first, field.name) == getattr(second, field.name)
        for field in dataclasses.fields(AuxRecord)
        if field.name != "map"
    )


FAKE = ("segments", "detections", "lines")


def build_fake(out, samples, fake=None, **providers):
    """A build whose fake provider makes all of its parts at once."""
    fake = fake or FakeProvider()
    return build_records(out, samples, dict.fromkeys(FAKE, fake) | providers, {})


def expected(sample, id):
    return FakeProvider()(sample.image, AuxRecord(image_key(sample.image), id))


def test_stored_records_are_read_unchanged(tmp_path):
    summary = build_fake(tmp_path / "aux", samples())
    assert summary == {"added": 12, "images": 12, "segments": 12, "detections": 12, "scene": 0, "lines": 12}
    stored = CachedRecords.open(tmp_path / "aux")
    assert stored.missing_parts() == ["scene"]
    assert sorted(path.name for path in (tmp_path / "aux").iterdir()) == ["maps", "records.parquet", "store.json"]
    for sample in samples():
        record = stored(sample.image, AuxRecord(image_key(sample.image)))
        same(record, expected(sample, f"q{int(sample.id[1:]) % 12}"))
    image = np.zeros((3, 3, 3), np.uint8)
    command = f"r2t2 aux build --data SET --out {tmp_path / 'aux'}"
    with pytest.raises(R2T2Error, match=re.escape(f"sample 'q99' (digest {image_key(image)}) among the 12 images")):
        stored(image, AuxRecord(image_key(image), "q99"))
    with pytest.raises(R2T2Error, match=f"{re.escape(command)}$"):
        stored(image, AuxRecord(image_key(image), "q99"))
    gray = np.full_like(image, GRAY)  # which warmup compares with: nothing is in it
    assert stored(gray, AuxRecord(image_key(gray))).segments == ()


def test_an_interrupted_build_resumes(tmp_path):
    first = FakeProvider(fuel=9)
    with pytest.raises(R2T2Error, match="out of fuel"):
        build_fake(tmp_path / "aux", samples(), first)
    with pytest.raises(R2T2Error, match="no auxiliary records"):
        CachedRecords.open(tmp_path / "aux")
    second = FakeProvider()
    assert build_fake(tmp_path / "aux", samples(), second)["added"] == 4  # the first batch of eight was saved
    assert second.calls == 4 and len(CachedRecords.open(tmp_path / "aux").rows) == 12
    third = FakeProvider()
    assert build_fake(tmp_path / "aux", samples(), third)["images"] == 12 and third.calls == 0
    with pytest.raises(R2T2Error, match=r"segments .* were made by fake, this build makes them by other; choose"):
        build_fake(tmp_path / "aux", samples(), FakeProvider(fingerprint="other"))
    nothing = FakeProvider(fuel=0)
    with pytest.raises(R2T2Error, match="out of fuel"):
        build_fake(tmp_path / "new", samples(), nothing)
    assert not (tmp_path / "new").exists()


def test_a_store_grows_and_its_fingerprint_stays(tmp_path):
    """The records of set A do not change, and those of set B are added, in one store or in two."""
    first, second = samples(3), samples(12)[3:12]
    build_fake(tmp_path / "aux", first)
    small = CachedRecords.open(tmp_path / "aux")
    build_fake(tmp_path / "other", second)
    grown = build_fake(tmp_path / "aux", [*first, *second])
    assert (grown["added"], grown["images"]) == (9, 12)
    stored, both = CachedRecords.open(tmp_path / "aux"), CachedRecords.open(tmp_path / "other", tmp_path / "aux")
    assert small.fingerprint == stored.fingerprint == both.fingerprint
    assert len(small.rows) == 3 and len(stored.rows) == len(both.rows) == 12
    for sample in [*first[:3], *second]:
        key = image_key(sample.image)
        same(stored(sample.image, AuxRecord(key)), expected(sample, sample.id))
        same(both(sample.image, AuxRecord(key)), expected(sample, sample.id))
    build_fake(tmp_path / "third", first, FakeProvider(fingerprint="fake, version 2"))
    third = CachedRecords.open(tmp_path / "third")
    assert third.fingerprint != stored.fingerprint
    with pytest.raises(R2T2Error, match="were not made in the same way"):
        CachedRecords.open(tmp_path / "aux", tmp_path / "third")


@pytest.mark.parametrize("which", ["views", "shuffled"])
def test_augmented_copies_have_the_record_of_their_original(which, tmp_path, monkeypatch):
    """The augmented images of MEMO, TPT, CoTTA and DeYO are in no store."""
    path = tmp_path / "tokenizer.model"
    train_tokenizer(path, 128)
    config = dataclasses.replace(MoAIConfig.tiny(), vocab_size=128, image_id=128, image_size=SIZE)
    build_fake(tmp_path / "store", samples())
    processor = MoAIProcessor(config, MoAITokenizer(path, config).adjusted(), CachedRecords.open(tmp_path / "store"))
    monkeypatch.setattr(augmentations, "encode_batch", lambda params, inputs, model: (inputs, None))
    port = SimpleNamespace(params=None, processor=processor, model=None)
    own = processor.prepare(None, samples()[:3])
    inputs = augmentations.encode_augmentations(port, samples()[:3], np.arange(3), which, 2, seed=0)
    copies = jax.tree.map(lambda leaf: leaf[:, -1], inputs) if which == "views" else inputs
    for name in ("verbalization", "segments"):
        np.testing.assert_array_equal(getattr(copies, name), getattr(own, name))
    assert (np.asarray(copies.image) != np.asarray(own.image)).any(axis=(1, 2, 3)).all()
    copy = dataclasses.replace(samples()[0], image=samples()[0].image ^ 1)
    with pytest.raises(R2T2Error, match="no auxiliary record of the image of sample 'q0'"):
        processor.prepare(None, [copy])


def test_a_later_build_adds_the_parts_that_records_lack(tmp_path):
    fake, two = FakeProvider(), [samples(2)[0], samples(2)[1]]
    build_fake(tmp_path / "aux", two, fake)
    scenes = SceneGraphFile({"q1": SceneGraph((0,), ())})
    build_fake(tmp_path / "aux", two, fake, scene=scenes)
    assert fake.calls == 2
    stored = CachedRecords.open(tmp_path / "aux")
    records = [stored(sample.image, AuxRecord(image_key(sample.image))) for sample in two]
    assert [record.scene for record in records] == [None, SceneGraph((0,), ())]
    same(dataclasses.replace(records[1], scene=None), expected(two[1], "q1"))
    with pytest.raises(R2T2Error, match="'q1' has another scene graph"):
        build_fake(tmp_path / "aux", two, scene=SceneGraphFile({"q1": SceneGraph((1,), ())}))
    readers = {"lines": lambda image, record: dataclasses.replace(record, lines=())}
    readers["lines"].fingerprint = "reader"
    build_records(tmp_path / "text", two[:1], readers, {})
    build_records(tmp_path / "text", two[1:], {"segments": FakeProvider()}, {})
    text = CachedRecords.open(tmp_path / "text")
    with pytest.raises(R2T2Error, match="no auxiliary segments of the image of sample 'q0'"):
        text(two[0].image, AuxRecord(image_key(two[0].image), "q0"))


def test_a_folder_of_the_former_layout_becomes_a_store(tmp_path):
    """A complete run with `records.parquet` is read as it is, and grows."""
    first = samples(3)[:3]
    build_fake(tmp_path / "store", first)
    rows = CachedRecords.open(tmp_path / "store").rows
    old = tmp_path / "aux"
    plan = Plan([Part("records", 3, 8, "records")])
    settings = {"dataset": "a.jsonl"}
    with Run.open(old, "aux build", settings, plan, {"providers": ["mask2former:x", "rapidocr:1"]}) as run:
        run.append(plan.batches[0], [to_row(expected(sample, sample.id)) for sample in first])
        run.finish({"images": 3})
    for name in ("records.parquet", "maps"):
        (tmp_path / "store" / name).rename(old / name)
    former = CachedRecords.open(old)
    assert former.makers == {"segments": "mask2former:x", "lines": "rapidocr:1"} and set(former.rows) == set(rows)
    reader = FakeProvider(fingerprint="rapidocr:1")
    summary = build_records(old, samples(5)[:5], {"lines": reader}, {})
    assert (summary["added"], summary["images"], reader.calls) == (2, 5, 2)
    assert sorted(path.name for path in old.iterdir()) == ["maps", "records.parquet", "store.json"]
    assert CachedRecords.open(old).fingerprint == former.fingerprint
    with pytest.raises(R2T2Error, match="made by rapidocr:1, this build makes them by fake"):
        build_records(old, first, {"lines": FakeProvider()}, {})


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(R2T2Error, match=r"holds 'notes\.txt', which is not part of a store"):
        build_fake(tmp_path, samples())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["build", "batches", "maps", "records.parquet"])
def test_a_folder_of_the_user_with_a_name_of_a_store_is_refused(tmp_path, name):
    path = tmp_path / name / "program.c" if "." not in name else tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(R2T2Error, match="which is not part of"):
        build_fake(tmp_path, samples())
    assert path.read_text() == "mine"


def test_a_run_of_another_command_is_no_store(tmp_path):
    plan = Plan([Part("records", 3, 8, "records")])
    with Run.open(tmp_path, "eval", {}, plan) as run:
        run.append(plan.batches[0], [{"id": "a"}])
    with pytest.raises(R2T2Error, match="holds a run of `r2t2 eval`, not of `r2t2 aux build`"):
        build_fake(tmp_path, samples())
    assert (tmp_path / "batches" / "00000.parquet").exists()


def test_scene_graphs_are_read_from_a_file(tmp_path):
    path = tmp_path / "scenes.jsonl"
    line = {"id": "q1", "objects": ["person", "horse"], "relations": [[0, 1, "riding", 0.9], [1, 0, "beside", 0.2]]}
    path.write_text(json.dumps(line), encoding="utf-8")
    graphs = SceneGraphFile.read(path)
    record = graphs(np.zeros((2, 2, 3), np.uint8), AuxRecord("k", "q1"))
    assert record.scene.objects == (0, 17) and len(record.scene.relations) == 2
    assert graphs(np.zeros((2, 2, 3), np.uint8), AuxRecord("k", "q2")).scene is None
    build_records(tmp_path / "aux", samples(2), {"scene": graphs}, {})
    stored = CachedRecords.open(tmp_path / "aux")
    scenes = [stored(s.image, AuxRecord(image_key(s.image))).scene for s in samples(2)[:2]]
    assert scenes[1] == record.scene and scenes[0] is None
    for wrong in ({"objects": ["unicorn"]}, {"relations": [[0, 2, "riding", 0.9]]}, {"id": None, "relations": [1]}):
        path.write_text(json.dumps(line | wrong), encoding="utf-8")
        with pytest.raises(R2T2Error, match="line 1"):
            SceneGraphFile.read(path)


def psgtr_line(**changes):
    """A result of PSGTr: two relations among a person and a horse, as in the test above."""
    distributions = np.full((2, 57), 0.001)
    distributions[0, 1 + predicates().index("riding")] = 0.9
    distributions[1, [0, 1 + predicates().index("beside")]] = 0.7, 0.2  # most likely no relation: not read
    line = {"id": "q1", "labels": [1, 18], "rel_pair_idxes": [[0, 1], [1, 0]], "rel_dists": distributions.tolist()}
    return line | changes


def test_results_of_psgtr_are_read_as_upstream_reads_them(tmp_path):
    path = tmp_path / "psgtr.jsonl"
    path.write_text(json.dumps(psgtr_line()), encoding="utf-8")
    riding, beside = (predicates().index(name) for name in ("riding", "beside"))
    relations = (Relation(0, 1, riding, 0.9), Relation(1, 0, beside, 0.2))
    assert SceneGraphFile.read(path).scenes["q1"] == SceneGraph((0, 17), relations)
    path.write_text(json.dumps(psgtr_line(rel_pair_idxes=[], rel_dists=[])), encoding="utf-8")
    assert SceneGraphFile.read(path).scenes["q1"] == SceneGraph((0, 17), ())
    for changes, cause in (
        ({"labels": [0, 18]}, "'labels' must be classes from 1 to 133"),
        ({"labels": [1, 134]}, "'labels' must be classes from 1 to 133"),
        ({"rel_pair_idxes": [[0, 2], [1, 0]]}, "an object that is not among the 2"),
        ({"rel_pair_idxes": [[0], [1]]}, "must be pairs"),
        ({"rel_dists": [[0.5] * 56] * 2}, "'rel_dists' must be 2 lists of 57 finite numbers"),
        ({"rel_dists": [["x"] * 57] * 2}, "line 1 is not a scene graph"),
        ({"labels": {"a": 1}}, "line 1 is not a scene graph"),
    ):
        path.write_text(json.dumps(psgtr_line(**changes)), encoding="utf-8")
        with pytest.raises(R2T2Error, match=cause):
            SceneGraphFile.read(path)


def test_import_adds_scene_graphs_to_a_store(tmp_path, monkeypatch, capsys):
    import r2t2_jax.plugins as plugins

    monkeypatch.setattr(plugins, "find", lambda group, name, kind: build.command)
    image = np.full((4, 4, 3), 9, np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    line = {"id": "q1", "image": "a.png", "question": "?", "answers": ["A"]}
    (tmp_path / "set.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (tmp_path / "psgtr.jsonl").write_text(json.dumps(psgtr_line()) + "\n", encoding="utf-8")
    arguments = ["--dataset", str(tmp_path / "set.jsonl"), "--out", str(tmp_path / "aux")]
    assert main(["aux", "import", "--scene-graphs", str(tmp_path / "psgtr.jsonl"), *arguments]) == 0
    assert "it has 1: segments 0, detections 0, scene 1, lines 0" in capsys.readouterr().out
    assert CachedRecords.open(tmp_path / "aux")(image, AuxRecord(image_key(image))).scene.objects == (0, 17)
    assert main(["aux", "import", "--scene-graphs", str(tmp_path / "set.jsonl"), *arguments]) == 2
    assert "line 1 is not a scene graph" in capsys.readouterr().err


def test_the_text_reader_returns_all_lines():
    reader = TextReader(lambda image: SimpleNamespace(txts=("a", "b"), scores=(0.9, 0.5)), SIZE)
    image = np.zeros((2, 2, 3), np.uint8)
    assert reader(image, AuxRecord("k")).lines == (TextLine("a", 0.9), TextLine("b", 0.5))
    nothing = TextReader(lambda image: SimpleNamespace(txts=None, scores=None), SIZE)
    assert nothing(image, AuxRecord("k")).lines == ()  # the reader was run and found nothing


def test_text_is_read_on_the_images_of_the_model_as_upstream_feeds_it():
    """The resized image, 490 pixels a side, with red first, although the engine takes its channels for blue first."""
    images = []
    engine = lambda image: images.append(image) or SimpleNamespace(txts=None, scores=None)  # noqa: E731
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    TextReader(engine)(image, AuxRecord("k"))
    TextReader(engine, size=20)(image, AuxRecord("k"))
    resized = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)) for side in (490, 20)]
    for seen, right in zip(images, resized, strict=True):
        np.testing.assert_array_equal(seen, right)


def test_a_missing_provider_names_its_extra(monkeypatch):
    def nothing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(protocol.importlib, "import_module", nothing)
    for name in ("segments", "detections", "ocr"):
        with pytest.raises(R2T2Error, match=r"pip install -e '\.\[aux\]'"):
            load_providers([name], None, SIZE)
    with pytest.raises(R2T2Error, match="unknown auxiliary models depth"):
        load_providers(["depth"], None, SIZE)
    with pytest.raises(R2T2Error, match="no auxiliary model"):
        load_providers([], None, SIZE)


def test_more_segments_than_colors_are_refused():
    with pytest.raises(R2T2Error, match="134 has no color"):
        describe_segments(np.full((4, 4), 134), [Segment(134, 0)], 4)


def test_a_relation_with_an_unknown_object_gives_an_empty_text():
    from ports.moai.auxiliary.verbalize import describe_scene

    assert describe_scene(SceneGraph((0,), (Relation(0, 5, 1, 0.9),))) == ""


def test_the_command_builds_records(tmp_path, monkeypatch, capsys):
    """`r2t2 aux build` from question sets to records; the command is registered under the name of the port."""
    import r2t2_jax.plugins as plugins

    monkeypatch.setattr(plugins, "find", lambda group, name, kind: build.command)
    monkeypatch.setitem(build.PROVIDERS, "segments", lambda size: FakeProvider())
    for number, name in enumerate(("first", "second")):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{name}.png")
        line = {"id": f"q{number}", "image": f"{name}.png", "question": "?", "answers": ["A"], "split": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    sets = [str(tmp_path / f"{name}.jsonl") for name in ("first", "second")]
    arguments = ["--out", str(tmp_path / "aux"), "--models", "segments"]
    assert main(["aux", "build", "--dataset", sets[0], *arguments]) == 0
    assert "Added records of 1 images" in capsys.readouterr().out
    split = f"{sets[1]}=second"
    assert main(["aux", "build", "--dataset", *sets, *arguments, "--split", split]) == 0
    assert "Added records of 1 images" in (out := capsys.readouterr().out) and "it has 2: segments 2" in out
    assert main(["aux", "build", "--dataset", *sets, *arguments]) == 0
    assert "Added records of 0 images" in capsys.readouterr().out
    assert main(["aux", "build", "--dataset", *sets, *arguments, "--models", "weather"]) == 2
    assert "weather" in capsys.readouterr().err
    assert main(["aux", "build", "--dataset", *sets, *arguments, "--split", "third.jsonl=x"]) == 2
    assert "--split 'third.jsonl=x' names 'third.jsonl'" in capsys.readouterr().err
