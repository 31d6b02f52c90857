"""Auxiliary records: stored and read back, built with resume, providers that are missing or faulty."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

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
)
from ports.moai.auxiliary.verbalize import describe_segments
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

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


def test_stored_records_are_read_unchanged(tmp_path):
    summary = build_records(tmp_path / "aux", samples(), [FakeProvider()], {})
    assert summary == {"images": 12, "segments": 12, "detections": 12, "scene": 0, "lines": 12}
    stored = CachedRecords.open(tmp_path / "aux")
    assert stored.missing_parts() == ["scene"]
    for sample in samples():
        key = image_key(sample.image)
        expected = FakeProvider()(sample.image, AuxRecord(key, samples()[int(sample.id[1:]) % 12].id))
        same(stored(sample.image, AuxRecord(key)), expected)
    with pytest.raises(R2T2Error, match="r2t2 aux build"):
        stored(np.zeros((3, 3, 3), np.uint8), AuxRecord(image_key(np.zeros((3, 3, 3), np.uint8))))


def test_an_interrupted_build_resumes(tmp_path):
    first = FakeProvider(fuel=9)
    with pytest.raises(R2T2Error, match="out of fuel"):
        build_records(tmp_path / "aux", samples(), [first], {})
    with pytest.raises(R2T2Error, match="no auxiliary records"):
        CachedRecords.open(tmp_path / "aux")
    second = FakeProvider()
    build_records(tmp_path / "aux", samples(), [second], {})
    assert second.calls == 4  # the first batch of eight was saved
    assert len(CachedRecords.open(tmp_path / "aux").rows) == 12
    third = FakeProvider()
    assert build_records(tmp_path / "aux", samples(), [third], {})["images"] == 12 and third.calls == 0
    with pytest.raises(R2T2Error, match="aux"):
        build_records(tmp_path / "aux", samples(), [FakeProvider(fingerprint="other")], {})


def test_scene_graphs_are_read_from_a_file(tmp_path):
    path = tmp_path / "scenes.jsonl"
    line = {"id": "q1", "objects": ["person", "horse"], "relations": [[0, 1, "riding", 0.9], [1, 0, "beside", 0.2]]}
    path.write_text(json.dumps(line), encoding="utf-8")
    graphs = SceneGraphFile.read(path)
    record = graphs(np.zeros((2, 2, 3), np.uint8), AuxRecord("k", "q1"))
    assert record.scene.objects == (0, 17) and len(record.scene.relations) == 2
    assert graphs(np.zeros((2, 2, 3), np.uint8), AuxRecord("k", "q2")).scene is None
    build_records(tmp_path / "aux", samples(2), [graphs], {})
    stored = CachedRecords.open(tmp_path / "aux")
    scenes = [stored(s.image, AuxRecord(image_key(s.image))).scene for s in samples(2)[:2]]
    assert scenes[1] == record.scene and scenes[0] is None
    for wrong in ({"objects": ["unicorn"]}, {"relations": [[0, 2, "riding", 0.9]]}, {"id": None, "relations": [1]}):
        path.write_text(json.dumps(line | wrong), encoding="utf-8")
        with pytest.raises(R2T2Error, match="line 1"):
            SceneGraphFile.read(path)


def test_the_text_reader_returns_all_lines():
    reader = TextReader(lambda image: SimpleNamespace(txts=("a", "b"), scores=(0.9, 0.5)))
    image = np.zeros((2, 2, 3), np.uint8)
    assert reader(image, AuxRecord("k")).lines == (TextLine("a", 0.9), TextLine("b", 0.5))
    nothing = TextReader(lambda image: SimpleNamespace(txts=None, scores=None))
    assert nothing(image, AuxRecord("k")).lines == ()  # the reader was run and found nothing


def test_a_missing_provider_names_its_extra(monkeypatch):
    def nothing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(protocol.importlib, "import_module", nothing)
    for name in ("segments", "detections", "ocr"):
        with pytest.raises(R2T2Error, match=r"r2t2-jax\[aux\]"):
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
    """`r2t2 aux build` from a question set to records; the command is registered under the name of the port."""
    from PIL import Image

    import r2t2_jax.plugins as plugins

    monkeypatch.setattr(plugins, "find", lambda group, name, kind: build.command)
    monkeypatch.setitem(build.PROVIDERS, "segments", lambda size: FakeProvider())
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    line = {"id": "q0", "image": "a.png", "question": "?", "answers": ["A"]}
    (tmp_path / "set.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    arguments = ["aux", "build", "--dataset", str(tmp_path / "set.jsonl"), "--out", str(tmp_path / "aux")]
    assert main([*arguments, "--models", "segments"]) == 0
    assert "records of 1 images" in capsys.readouterr().out
    assert main([*arguments, "--models", "weather"]) == 2
    assert "weather" in capsys.readouterr().err
