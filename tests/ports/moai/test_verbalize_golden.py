"""Verbalized auxiliary records, prompts and answers against recorded strings; our errors where upstream fails."""

import json
import re

import numpy as np
import pytest

from ports.moai.auxiliary.record import Detection, Relation, SceneGraph, Segment, TextLine
from ports.moai.auxiliary.verbalize import (
    describe_box,
    describe_detections,
    describe_lines,
    describe_scene,
    describe_segments,
    join_parts,
    segment_boxes,
)
from ports.moai.processing import (
    IMAGE,
    SYSTEM,
    PromptPieces,
    contains_yes,
    demo_turn,
    extract_answer,
    extract_demo_answer,
    prompt_pieces,
    user_turn,
)
from ports.moai.vision import color_table
from r2t2_jax.errors import R2T2Error
from tests.goldens import find_goldens

SIZE = 490


def recorded_cases():
    cases = []
    for value in find_goldens("golden_moai_verbalise*.json"):
        for case in json.loads(value.values[0].read_text(encoding="utf-8"))["cases"]:
            cases.append(pytest.param(case, id=f"{value.id}/{case['fn']}/{case['name']}"))
    return cases


def painted(inputs):
    canvas = np.full((SIZE, SIZE), inputs["fill"], np.int64)
    for number, x0, y0, x1, y1 in inputs["paint"]:
        canvas[y0:y1, x0:x1] = number
    return np.where(canvas <= 0, 0, canvas)


def describe_case_segments(inputs):
    canvas = painted(inputs)
    segments = [Segment(number, label) for number, label, _ in inputs["segments_info"]]
    text = describe_segments(canvas, segments, SIZE)
    colors = color_table()[canvas]
    return {
        "text": text,
        "n_nice": len(segment_boxes(canvas, SIZE)[: len(segments)]) if text else 0,
        "panoptic_shape": list(colors.shape),
        "panoptic_mean": colors.mean(axis=(0, 1)),
        "panoptic_probe": lambda probes: [[row, column, colors[row, column]] for row, column, _ in probes],
    }


def describe_case_scene(inputs):
    scores = np.zeros((len(inputs["rel_dists_sparse"]), 57), np.float32)
    for row, sparse in zip(scores, inputs["rel_dists_sparse"], strict=True):
        for column, value in sparse.items():
            row[int(column)] = value
    foreground = scores[:, 1:]  # without background
    relations = [
        Relation(first, second, int(row.argmax()), float(row.max()))
        for (first, second), row in zip(inputs["rel_pair_idxes"], foreground, strict=True)
    ]
    return {"text": describe_scene(SceneGraph(tuple(label - 1 for label in inputs["labels"]), tuple(relations)))}


def describe_case_prompt(inputs):
    """With the recorded stand-in for a tokenizer, which counts words and marks."""
    pattern = re.compile(r"<image>|\[UNUSED_TOKEN_14[56]\]|\w+|[^\w\s]|\n")
    turn = {"none": lambda question: "", "demo": demo_turn}.get(inputs["template"], user_turn)
    user = turn(inputs["question"])
    pieces = prompt_pieces(lambda text: [0] * len(pattern.findall(text)), user, bos=1)
    images = inputs["img_length"]
    return {
        "text": SYSTEM + user,
        "im_mask_rle": runs([0] * len(pieces.before) + [1] * images + [0] * len(pieces.after)),
        "lang_mask_rle": runs([1] * len(pieces.before) + [0] * images + [1] * len(pieces.after)),
        "label_len": len(pieces.before) + images,
    }


def runs(mask):
    lengths = []
    for value in mask:
        if lengths and lengths[-1][0] == value:
            lengths[-1][1] += 1
        else:
            lengths.append([value, 1])
    return lengths


def describe_case_answer(inputs, name):
    note = f"{inputs.get('note', '')} {name}".lower()
    if "demo" in note:
        return {"text": extract_demo_answer(inputs["decoded"])}
    if "hallusion" in note:
        return {"text": contains_yes(inputs["decoded"])}
    return {"text": extract_answer(inputs["decoded"])}


def describe_case(case):
    inputs = case["input"]
    match case["fn"]:
        case "make_seg_prompt":
            return describe_case_segments(inputs)
        case "make_od_prompt":
            return {
                "text": describe_detections([Detection(s, n, tuple(box)) for s, n, box in inputs["detections"]], SIZE)
            }
        case "make_sgg_prompt":
            return describe_case_scene(inputs)
        case "make_ocr_prompt":
            lines = inputs["lines"]
            return {"text": describe_lines(lines and [TextLine(text, score) for text, score in lines])}
        case "make_human_string":
            return {"text": join_parts(*inputs["args"])}
        case "box2string":
            return {"text": describe_box(inputs["box"])}
        case "prompt":
            return describe_case_prompt(inputs)
        case "postprocess":
            return describe_case_answer(inputs, case["name"])
    raise AssertionError(f"unknown function {case['fn']}")


@pytest.mark.parametrize("case", recorded_cases())
def test_golden_texts(case):
    if "raises" in case:
        with pytest.raises(R2T2Error):
            describe_case(case)
        return
    ours = describe_case(case)
    for name, expected in case["output"].items():
        value = ours[name](expected) if callable(ours[name]) else ours[name]
        if name == "panoptic_probe":
            for (*_, color), (*_, wanted) in zip(value, expected, strict=True):
                np.testing.assert_allclose(color, wanted, atol=1e-6)
        elif name == "panoptic_mean":
            np.testing.assert_allclose(value, expected, atol=1e-6)
        else:
            assert value == expected, name


def test_the_system_text_ends_with_the_image_token():
    assert SYSTEM.endswith(IMAGE)
    assert PromptPieces([1], [2]) == ([1], [2])
