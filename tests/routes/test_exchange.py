"""Routes in other tools' formats: files written by hand from their layouts are read, and written again."""

import base64
import io
import json

import numpy as np
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.routes.recording import Recording

PROMPT, ANSWER = [11, 12, 13], [7, 8]
IDS = np.arange(16).reshape(4, 2, 2)  # routes of all tokens but the last, in two layers, two experts a token


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def vllm(routes):
    choice = {"index": 0, "text": "yes", "token_ids": ANSWER, "routed_experts": routes}
    return {"request_id": "r1", "prompt_token_ids": PROMPT, "choices": [choice]}


def sglang(ids=IDS):
    flat = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    meta = {"id": "r1", "prompt_tokens": 3, "completion_tokens": 2, "routed_experts": flat}
    return {"text": "yes", "input_ids": PROMPT, "output_ids": ANSWER, "meta_info": meta}


def verifiers(shape=(4, 2, 2)):
    return vllm({"data": base64.b85encode(IDS.astype("<i4").tobytes()).decode(), "shape": list(shape)})


def imported(tmp_path, kind, content, *options):
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(content) + "\n")
    code = main(["routes", "import", "--format", kind, str(path), "--out", str(tmp_path / "routes"), *options])
    return code, tmp_path / "routes"


SIZES = ("--layers", "2", "--top-k", "2")


@pytest.mark.parametrize(
    ("kind", "content", "options"),
    [("vllm", vllm(npy(IDS.astype(np.int32))), ()), ("sglang", sglang(), SIZES), ("verifiers", verifiers(), ())],
)
def test_a_response_is_read_as_ids_and_written_again(tmp_path, capsys, kind, content, options):
    code, folder = imported(tmp_path, kind, content, *options)
    printed = capsys.readouterr().out
    assert code == 0
    assert f"Expert ids only: {kind} holds no combine weights" in printed
    (sample,) = Recording.open(folder).samples()
    assert (sample.id, sample.prediction, sample.weights) == ("r1", "yes", None)
    assert sample.tokens.tolist() == [*PROMPT, *ANSWER]
    assert sample.kinds == ["text"] * 3 + ["answer"] * 2
    np.testing.assert_array_equal(sample.experts[:4], IDS)
    assert (sample.experts[4] == -1).all()
    assert main(["routes", "show", str(folder)]) == 0
    assert "layer 1  no route" in capsys.readouterr().out
    written = tmp_path / "written.jsonl"
    assert main(["routes", "export", "--format", kind, str(folder), "--out", str(written)]) == 0
    assert json.loads(written.read_text()) == content


def test_a_line_separator_in_a_text_ends_no_response(tmp_path):
    content = vllm(IDS.tolist())
    content["choices"][0]["text"] = "one\u2028two"
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(content, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert main(["routes", "import", "--format", "vllm", str(path), "--out", str(tmp_path / "routes")]) == 0
    assert Recording.open(tmp_path / "routes").sample("r1").prediction == "one\u2028two"


def test_token_ids_of_an_archive_fit_int32(tmp_path, capsys):
    path = tmp_path / "batch.npz"
    np.savez(path, routed_experts=IDS[None], inputs=np.array([[1, 2, 3, 2**40]]))
    assert main(["routes", "import", "--format", "maxtext", str(path), "--out", str(tmp_path / "routes")]) == 2
    assert "'inputs' of sequence 0 has a token id beyond int32" in capsys.readouterr().err


def test_formats_convert_into_each_other(tmp_path):
    _, folder = imported(tmp_path, "vllm", vllm(IDS.tolist()))
    for kind, content in (("sglang", sglang()), ("verifiers", verifiers())):
        written = tmp_path / f"{kind}.jsonl"
        assert main(["routes", "export", "--format", kind, str(folder), "--out", str(written)]) == 0
        assert json.loads(written.read_text()) == content


def test_arrays_of_maxtext_keep_their_padding(tmp_path):
    routes = np.full((2, 5, 2, 2), -1, np.int32)
    routes[0, :4], routes[1, :2] = IDS, IDS[:2]
    arrays = {
        "routed_experts": routes,
        "inputs": np.array([[11, 12, 13, 7, 8], [5, 6, 0, 0, 0]], np.int32),
        "inputs_segmentation": np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32),
    }
    path, written = tmp_path / "batch.npz", tmp_path / "again.npz"
    np.savez(path, **arrays)
    assert main(["routes", "import", "--format", "maxtext", str(path), "--out", str(tmp_path / "routes")]) == 0
    first, second = Recording.open(tmp_path / "routes").samples()
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([11, 12, 13, 7, 8], [5, 6])
    assert main(["routes", "export", "--format", "maxtext", str(tmp_path / "routes"), "--out", str(written)]) == 0
    with np.load(written) as again:
        assert set(again.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    ("kind", "content", "options", "error"),
    [
        ("vllm", vllm(npy(IDS[:2])), (), "has routes of 2 tokens, the sequence has 5"),
        ("vllm", vllm(npy(IDS * 1.5)), (), "float64 (4, 2, 2), not integers [tokens, layers, experts]"),
        ("vllm", vllm("?"), (), "'routed_experts' is no base64"),
        ("vllm", vllm([[1], [2, 3]]), (), "nor a rectangular list"),
        ("vllm", vllm(base64.b64encode(b"PK\x03\x04archive").decode()), (), "is neither a .npy file nor"),
        ("verifiers", verifiers((4, 2, 2**63)), (), "needs another number"),
        ("verifiers", verifiers((-4, -2, 2)), (), "'routed_experts.shape' is not a list of sizes"),
        ("vllm", vllm(npy(IDS + 40_000)), (), "has an id beyond 0 to 32,767"),
        (
            "vllm",
            vllm(IDS.tolist()) | {"prompt_routed_experts": IDS[:2].tolist()},
            (),
            "routes of prompt and answer are (2, 2, 2) and (4, 2, 2), the prompt has 3 tokens",
        ),
        ("vllm", vllm(IDS.tolist()) | {"choices": [3]}, (), "'choices' is not a list of completions, each an object"),
        ("sglang", sglang() | {"sgl_ext": 3}, SIZES, "'meta_info' and 'sgl_ext' are objects"),
        ("vllm", {"choices": []}, (), "'prompt_token_ids' is missing; record the token ids"),
        ("vllm", vllm(npy(IDS)), SIZES, "--format vllm states its sizes: leave out --layers and --top-k"),
        ("sglang", sglang() | {"meta_info": {"routed_experts": "\u00e9" * 8}}, SIZES, "'routed_experts' is no base64"),
        ("sglang", sglang(), (), "--format sglang needs --layers and --top-k"),
        ("sglang", sglang(), ("--layers", "3", "--top-k", "2"), "has 16 ids, no multiple of 3 layers x 2 experts"),
        ("verifiers", verifiers((4, 2, 3)), (), "its shape [4, 2, 3] needs another number"),
        ("verifiers", vllm("text"), (), "not an object with 'data' in base85 and 'shape'"),
        ("maxtext", {}, (), "is no archive of arrays"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, capsys, kind, content, options, error):
    code, folder = imported(tmp_path, kind, content, *options)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert error in message
    assert not folder.exists()


def test_routes_of_prompt_and_answer_may_be_apart_as_in_later_versions_of_vllm(tmp_path):
    content = vllm(IDS[3:].tolist()) | {"prompt_routed_experts": IDS[:3].tolist()}
    _, folder = imported(tmp_path, "vllm", content)
    np.testing.assert_array_equal(Recording.open(folder).sample("r1").experts[:4], IDS)
    content["choices"][0] |= {"token_ids": [7], "routed_experts": None}  # a token that no pass follows
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(content))
    assert main(["routes", "import", "--format", "vllm", str(path), "--out", str(tmp_path / "one")]) == 0
    assert Recording.open(tmp_path / "one").sample("r1").experts[:, 0, 0].tolist() == [0, 4, 8, -1]


def test_a_completion_of_sglang_names_its_ids_as_those_of_openai(tmp_path):
    flat = base64.b64encode(IDS.astype("<i4").tobytes()).decode()
    choices = [
        {"token_ids": ANSWER, "message": {"content": text}, "sgl_ext": {"routed_experts": flat}} for text in "ab"
    ]
    _, folder = imported(tmp_path, "sglang", {"id": "c", "prompt_token_ids": PROMPT, "choices": choices}, *SIZES)
    samples = list(Recording.open(folder).samples())
    assert [(sample.id, sample.prediction) for sample in samples] == [("c#0", "a"), ("c#1", "b")]
    np.testing.assert_array_equal(samples[1].experts[:4], IDS)


def test_layers_without_a_gate_are_left_out_and_written_again(tmp_path, capsys):
    """Engines give every layer a row: the dense first layers of a model have the ids zero."""
    whole = np.zeros((4, 5, 2), np.int32)
    whole[:, [1, 2, 4]] = np.arange(24).reshape(4, 3, 2)
    content = vllm(npy(whole))
    _, folder = imported(tmp_path, "vllm", content)
    assert "Left out, since all ids are 0 as of a layer without a gate: layer 0, layer 3." in capsys.readouterr().out
    recording = Recording.open(folder)
    assert recording.facts.layers == ("layer 1", "layer 2", "layer 4")
    np.testing.assert_array_equal(recording.sample("r1").experts[:4], whole[:, [1, 2, 4]])
    written = tmp_path / "written.jsonl"
    assert main(["routes", "export", "--format", "vllm", str(folder), "--out", str(written)]) == 0
    assert json.loads(written.read_text()) == content


def test_ids_without_token_ids_are_exported_to_maxtext_only(tmp_path, capsys):
    path = tmp_path / "batch.npz"
    np.savez(path, routed_experts=IDS[None])
    assert main(["routes", "import", "--format", "maxtext", str(path), "--out", str(tmp_path / "routes")]) == 0
    out = tmp_path / "x.jsonl"
    assert main(["routes", "export", "--format", "vllm", str(tmp_path / "routes"), "--out", str(out)]) == 2
    assert "sample '0' has tokens without token ids, which --format vllm needs" in capsys.readouterr().err
    assert not out.exists()
