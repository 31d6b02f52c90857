"""Resampling, rotary tables, processors, prompts, the parser and the tokenization rule against upstream."""

import json
import re

import jax
import numpy as np
import pytest

from ports.mova.layers import align, bilinear, nearest, pool, rotary_angles, rotate_pairs
from ports.mova.processing import flattened_patches, normalize_image, pad_square, patch_grid
from ports.mova.tokens import (
    ROUTING_PROMPT,
    TEMPLATES,
    answer_message,
    chosen_experts,
    in_style,
    prompt_ids,
    read_wordpiece,
    routing_message,
    routing_question,
    text_for_bert,
)
from r2t2_jax.contract import Sample
from tests.goldens import find_goldens
from tests.ports.mova.recorded import FEATURES, Recorded


def close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=FEATURES)


def last(x):
    """[1, C, H, W] to channels last."""
    return x[0].transpose(1, 2, 0)


@pytest.mark.parametrize("path", find_goldens("golden_mova_resize_rope_ops*.npz"))
def test_resampling(path):
    golden = Recorded(path).arrays
    for name, x in golden.items():
        case = name.removesuffix("/in")
        if name == case or case.startswith("clip_pos"):  # position tables come resized with the checkpoint
            continue
        (out,) = (key for key in golden if key.startswith(f"{case}/out"))
        theirs = golden[out]
        if case.startswith(("nearest", "bilinear", "codetr")):
            resize = nearest if case.startswith("nearest") else bilinear
            close(resize(last(x), theirs.shape[-1]), last(theirs))
        elif case.startswith("feature_align"):
            close(align(x[0], round(theirs.shape[1] ** 0.5)), theirs[0])
        elif case.startswith("adaptive_avg"):
            channels, side = x.shape[1], theirs.shape[-1]
            close(pool(last(x).reshape(-1, channels), side), last(theirs).reshape(-1, channels))
        else:
            assert case.startswith("routing_pool")
            close(pool(x, round(len(theirs) ** 0.5)), theirs)


@pytest.mark.parametrize("path", find_goldens("golden_mova_resize_rope_ops*.npz"))
def test_rotary_tables(path):
    golden = Recorded(path).arrays
    for name in (name for name in golden if "/freqs_cos" in name):
        case = name.split("/")[0]
        grid = int(case.rsplit("_", 1)[1])
        theirs, reference = golden[name], grid if case.startswith("adapter") else 16
        turns = np.asarray(rotary_angles(grid, reference, theirs.shape[-1]))
        if "_rows_" in name:
            named = [int(row) for row in name.split("_rows_")[1].split("_")]
            rows = named if len(named) == len(theirs) else _searched(np.cos(turns), theirs)
        else:
            rows = list(range(grid**2))
        close(np.cos(turns)[rows], theirs)
        close(np.sin(turns)[rows], golden[name.replace("cos", "sin")])
        if f"{case}/q_rows" in golden:
            rotated = rotate_pairs(golden[f"{case}/q_rows"][:, None], turns[np.array(rows)])[:, 0]
            close(rotated, golden[f"{case}/q_rotated_rows"])


def _searched(table, rows):
    """Where the recorded rows lie, when their name does not list them all."""
    return [int(np.abs(table - row[None]).max(axis=1).argmin()) for row in rows]


@pytest.mark.parametrize("path", find_goldens("golden_mova_preproc_*.npz"))
def test_processors(path):
    golden = Recorded(path)
    kinds = golden.facts["processors"]
    for name, image in golden.arrays.items():
        if not name.endswith("/in_uint8_hwc"):
            continue
        case = name.split("/")[0]
        for kind in ("clip", "dino", "high"):
            facts = kinds[kind]
            mean, std = tuple(facts["mean"]), tuple(facts["std"])
            ours = normalize_image(image, facts["size"], mean, std)
            close(ours.transpose(2, 0, 1), golden[f"{case}/{kind}_{facts['size']}"])
            if f"{case}/padded_{kind}_uint8" in golden.arrays:
                np.testing.assert_array_equal(pad_square(image, mean), golden[f"{case}/padded_{kind}_uint8"])
                assert [int(part * 255) for part in mean] == facts["fill"]
        facts = kinds["pix2struct"]
        theirs = golden[f"{case}/pix2struct_{facts['max_patches']}"]
        close(flattened_patches(image, facts["max_patches"], facts["patch"]), theirs)


@pytest.mark.parametrize("path", find_goldens("golden_mova_preproc_*.json"))
def test_a_row_of_patches_is_missing_for_the_recorded_sizes(path):
    for number, facts in json.loads(path.read_text())["pix2struct_float_floor_quirk"]["per_max_patches"].items():
        (listed,) = (key for key in facts if key.startswith("bad_square_sizes"))
        top = int(re.sub(r"\D", "", listed))
        grids = {side: patch_grid(side, side, int(number), 16) for side in range(16, top + 1)}
        assert [side for side, (rows, _) in grids.items() if rows != facts["expected"]] == facts[listed]


@pytest.mark.parametrize("path", find_goldens("golden_expert_pix2struct*.npz"))
def test_patches_of_the_recorded_tower(path):
    golden = Recorded(path)
    ours = flattened_patches(golden["in/image_uint8_hwc"], golden.config["max_patches"], golden.config["patch"])
    close(ours[None], golden["in/flattened_patches"])


PROMPTS = find_goldens("golden_mova_routing_prompting*.json")


@pytest.mark.parametrize("path", PROMPTS)
def test_the_parser_chooses_the_recorded_experts(path):
    facts = json.loads(path.read_text(encoding="utf-8"))
    for case in facts["get_routing_weights_cases"]:
        weights = case["weights"]
        assert list(chosen_experts(case["text"], len(weights))) == [bool(weight) for weight in weights], case["text"]


@pytest.mark.parametrize("path", PROMPTS)
def test_prompts_equal_the_recorded_ones(path):
    facts = json.loads(path.read_text(encoding="utf-8"))
    template = TEMPLATES["llama3"]
    assert facts["routing_prompt"] == ROUTING_PROMPT
    for case in facts["prompt_cases"]:
        question = case["question"]
        assert template.prompt(routing_message(question)) == case["routing_pass_prompt"]
        assert template.prompt(answer_message(question)) == case["answer_pass_prompt"]
        assert text_for_bert(question) == case["bert_text"]
    turns = ("<image>\nHi", "Hello.", "And now?", "Fine.", "Bye")
    assert template.prompt(*turns) == facts["multi_turn_prompt"]


@pytest.mark.parametrize("path", PROMPTS)
def test_styles_make_the_recorded_questions(path):
    questions = {case["question"] for case in json.loads(path.read_text(encoding="utf-8"))["prompt_cases"]}
    assert in_style("What is the color of the car?", (), "word") in questions
    assert in_style("<image>\nWhich chart has the highest bar?", (), "plain") in questions
    assert in_style("Is there a tumor?", ("Yes", "No"), "letter") in questions


REQUEST = "\nAnswer with the option's letter from the given choices directly."


@pytest.mark.parametrize(("dataset", "routed"), [("mmbench", ""), ("scienceqa", ""), ("ai2d", REQUEST), ("", REQUEST)])
def test_the_first_pass_of_some_benchmarks_has_no_request(dataset, routed):
    image = np.zeros((1, 1, 3), np.uint8)
    sample = Sample("1", image, "Which?", ("A",), ("red", "", "blue"), "letter", dataset=dataset)
    assert routing_question(sample) == "Which?\nA. red\nC. blue" + routed
    assert in_style(sample.question, sample.options, "letter", dataset) == f"Which?\nA. red\nC. blue{REQUEST}"


def test_mme_and_textvqa_have_the_prompts_of_upstreams_files():
    request = "\nAnswer the question using a single word or phrase."
    careful = f"{request} Answer yes or no, and check carefully to make sure your answer is correct."
    assert in_style("Is it red?", (), "word", "mme") == f"Is it red?{careful}"
    tokens = "Reference OCR token: DAKOTA, DIGITAL"
    assert in_style("What brand?", (), "word", "textvqa", tokens) == f"What brand?\n{tokens}{request}"


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("adds_begin", [True, False])
def test_tokenization_rule(path, adds_begin):
    def ids(text):
        own = [1] if adds_begin else []
        return own + [1 if part == "<|begin_of_text|>" else ord(part) for part in re.findall(mark, text, re.DOTALL)]

    mark = r"<\|begin_of_text\|>|."
    for case in json.loads(path.read_text(encoding="utf-8"))["tokenizer"]["cases"]:
        expected = case["ids_tokenizer_adds_bos" if adds_begin else "ids_tokenizer_no_bos"]
        assert prompt_ids(case["prompt"], ids, 1) == expected


@pytest.mark.parametrize("path", find_goldens("golden_mova_adapter_*.npz"))
def test_wordpiece_ids_of_the_question(path, tmp_path):
    golden = Recorded(path)
    (tmp_path / "vocab.txt").write_text("\n".join(golden.facts["vocab"]) + "\n", encoding="utf-8")
    words = read_wordpiece(tmp_path / "vocab.txt", 512)
    for name, case in golden.facts["cases"].items():
        for row, text in enumerate(case.get("bert_text", ())):
            recorded = golden[f"{name}/in/input_ids"][row][golden[f"{name}/in/attention_mask"][row] > 0]
            assert words(text) == list(recorded)
            assert text_for_bert(*case["prompts"][row]) == text


def test_long_questions_are_truncated(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")) + "\n")
    assert read_wordpiece(tmp_path / "vocab.txt", 4)("a a a a a") == [2, 5, 5, 3]


def test_nearest_is_not_jax_nearest():
    x = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 4, 1), np.float32)
    assert list(nearest(x, 5)[:, 0, 0]) == [0, 0, 1, 2, 3]
    assert list(jax.image.resize(x, (5, 5, 1), "nearest")[:, 0, 0]) != [0, 0, 1, 2, 3]
