"""Writes a tiny dataset in the official layout of each dataset, for tests that read it or damage it first."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from r2t2_jax.metrics.sets import MME_PERCEPTION

SIZE = (9, 7)


def png(color: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, SIZE, color).save(buffer, "PNG")
    return buffer.getvalue()


def jpg(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, color).save(buffer, "JPEG")
    return buffer.getvalue()


def put(path: Path, content: Any) -> Path:
    """Write bytes and strings as they are, other content as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else text_of(content).encode())
    return path


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def vqav2(folder: Path) -> None:
    questions = [
        {"image_id": 42, "question": "Is it red?", "question_id": 42000},
        {"image_id": 42, "question": "How many dogs?", "question_id": 42001},
    ]
    answers = [["no"] + ["yes"] * 9, ["2"] * 6 + ["two"] * 4]
    annotations = [
        {
            "question_id": question["question_id"],
            "image_id": 42,
            "question_type": "is it",
            "answer_type": kind,
            "multiple_choice_answer": answer_texts[-1],
            "answers": [
                {"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answer_texts, 1)
            ],
        }
        for question, answer_texts, kind in zip(questions, answers, ("yes/no", "number"), strict=True)
    ]
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": "val2014"}
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", head | {"questions": questions})
    put(folder / "v2_mscoco_val2014_annotations.json", head | {"annotations": annotations})
    put(folder / "val2014/COCO_val2014_000000000042.jpg", jpg())


def visual7w(folder: Path) -> None:
    wrong = ["Tile.", "Carpet.", "Cement."]
    pair = {"qa_id": 871917, "image_id": 5, "question": "What type of flooring?", "answer": "Wood.", "type": "what"}
    image = {"image_id": 5, "filename": "v7w_5.jpg", "split": "test", "qa_pairs": [pair | {"multiple_choices": wrong}]}
    put(folder / "dataset_v7w_telling.json", {"dataset": "visual7w-telling", "images": [image]})
    put(folder / "images/v7w_5.jpg", jpg())


def cocoqa(folder: Path) -> None:
    columns = {"questions": "what is black\nhow many dogs", "answers": "dog\ntwo", "img_ids": "42\n43", "types": "0\n1"}
    for name, text in columns.items():
        put(folder / f"test/{name}.txt", text + "\n")
    put(folder / "val2014/COCO_val2014_000000000042.jpg", jpg())
    put(folder / "val2017/000000000043.jpg", jpg())


def clevr(folder: Path) -> None:
    question = {
        "question_index": 7,
        "image_index": 3,
        "image_filename": "CLEVR_val_000003.png",
        "split": "val",
        "question": "How many cubes?",
        "answer": "3",
        "program": [{"function": "scene"}, {"function": "count"}],
    }
    put(folder / "CLEVR_v1.0/questions/CLEVR_val_questions.json", {"info": {}, "questions": [question]})
    put(folder / "CLEVR_v1.0/images/val/CLEVR_val_000003.png", png("#ff000080", "RGBA"))


def aokvqa(folder: Path) -> None:
    row = {
        "split": "val",
        "image_id": 42,
        "question_id": "22jbM6gDxdaMaunuzgrsBB",
        "question": "What is it?",
        "choices": ["train", "taxi", "cab", "bus"],
        "correct_choice_idx": 2,
        "direct_answers": ["taxi"] + ["cab"] * 9,
        "difficult_direct_answer": False,
        "rationales": ["Yellow."],
    }
    hard = row | {"question_id": "hard", "difficult_direct_answer": True}
    put(folder / "aokvqa_v1p0_val.json", [row, hard])
    put(folder / "coco/val2017/000000000042.jpg", jpg())


def tqa(folder: Path) -> None:
    choices = {
        letter: {"idStructural": f"{letter}.", "processedText": text} for letter, text in zip("abc", "xyz", strict=True)
    }
    question = {
        "globalID": "DQ_000001",
        "questionSubType": "Multiple Choice",
        "imagePath": "question_images/a.png",
        "beingAsked": {"processedText": "Which layer?"},
        "answerChoices": choices,
        "correctAnswer": {"processedText": "b"},
    }
    lesson = {"globalID": "L_1", "questions": {"nonDiagramQuestions": {}, "diagramQuestions": {"DQ_000001": question}}}
    put(folder / "tqa_train_val_test/val/tqa_v1_val.json", [lesson])
    put(folder / "tqa_train_val_test/val/question_images/a.png", png())


def mathvista(folder: Path) -> None:
    common = {
        "pid": "1",
        "question": "How long?",
        "image": "images/1.jpg",
        "unit": "m",
        "metadata": {"task": "maths"},
    }
    number = {"choices": None, "precision": 1, "answer": "1.2", "question_type": "free_form", "answer_type": "float"}
    choice = {"precision": None, "question_type": "multi_choice", "answer_type": "text", "unit": None, "pid": "2"}
    problems = {"1": common | number, "2": common | choice | {"choices": ["3 m", "4 m"], "answer": "4 m"}}
    put(folder / "data/testmini.json", problems)
    put(folder / "data/query.json", {"1": "Hint: official\nQuestion: How long? (Unit: m)"})
    put(folder / "images/1.jpg", png())  # as published, some are PNG


def stvqa(folder: Path) -> None:
    row = {"question_id": 9, "question": "What is written?", "answers": ["stop", "STOP"], "dataset": "coco-text"}
    put(folder / "train_task_3.json", {"data": [row | {"file_path": "coco-text/a.jpg", "set_name": "train"}]})
    put(folder / "coco-text/a.jpg", jpg())


def docvqa(folder: Path) -> None:
    row = {"questionId": 5, "question": "Which page?", "image": "documents/x_1.png", "answers": ["2", "page 2"]}
    head = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "val"}
    put(folder / "val_v1.0.json", head | {"data": [row | {"question_types": ["layout", "others"]}]})
    put(folder / "val/documents/x_1.png", png("white", "L"))


MMBENCH = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split")


def mmbench(folder: Path, **changes: str) -> None:
    image = base64.b64encode(jpg()).decode()
    row = dict.fromkeys(MMBENCH, "") | {"index": "7", "question": "Which\none?", "hint": "Look.", "A": "x", "B": "y"}
    row |= {"C": "z", "answer": "B", "category": "ocr", "image": image, "split": "dev"} | changes
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, MMBENCH, delimiter="\t")
    writer.writeheader()
    writer.writerow(row)
    put(folder / "MMBench_DEV_EN.tsv", buffer.getvalue())


MME_ANSWERS = ("Yes", "No")


def mme(folder: Path) -> None:
    for subtask in MME_PERCEPTION:
        root = folder / "MME_Benchmark_release_version" / subtask
        apart = subtask in ("posters", "celebrity", "scene", "landmark", "artwork")
        lines = [
            f"Is {thing} here? Please answer yes or no.\t{answer}" for thing, answer in (("a", "Yes"), ("b", "No"))
        ]
        put(root / ("questions_answers_YN/1.txt" if apart else "1.txt"), "\n".join(lines))
        put(root / ("images/1.png" if apart else "1.jpg"), png() if apart else jpg())


def cvbench_row(**changes: Any) -> dict[str, Any]:
    return {
        "idx": 0,
        "type": "2D",
        "task": "Count",
        "image": {"bytes": png(), "path": "a.png"},
        "question": "How many organs are in the image?",
        "choices": ["3", "2", "1", "0"],
        "answer": "(C)",
        "source": "ADE20K",
    } | changes


def cvbench(folder: Path, **changes: Any) -> None:
    deep = {"idx": 1, "type": "3D", "task": "Depth", "source": "Omni3D", "choices": ["near", "far"], "answer": "(B)"}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([cvbench_row(**changes), cvbench_row(**deep)]), folder / "test.parquet")


def gqa(folder: Path) -> None:
    row = {
        "question": "Is it overcast?",
        "answer": "no",
        "imageId": "n161313",
        "isBalanced": True,
        "types": {"structural": "verify"},
    }
    questions = {"201307251": row, "2": row | {"isBalanced": False}}
    put(folder / "questions1.2/testdev_balanced_questions.json", questions)
    put(folder / "images/n161313.jpg", jpg())


def scienceqa(folder: Path) -> None:
    row = {
        "question": "Which state?",
        "choices": ["Maine", "Ohio"],
        "answer": 1,
        "hint": "A map.",
        "image": "image.png",
        "subject": "social science",
        "split": "test",
    }
    put(folder / "problems.json", {"5": row, "6": row | {"image": None}, "7": row | {"split": "val"}})
    put(folder / "images/test/5/image.png", png())


def ai2d(folder: Path) -> None:
    row = {"questionId": "0.png-0", "correctAnswer": 3, "answerTexts": list("wxyz"), "abcLabel": False}
    abc = row | {"questionId": "0.png-1", "abcLabel": True, "correctAnswer": 0}
    put(folder / "ai2d/questions/0.png.json", {"imageName": "0.png", "questions": {"What?": row, "Which letter?": abc}})
    put(folder / "ai2d/questions/1.png.json", {"imageName": "1.png", "questions": {"Train?": row}})
    put(folder / "ai2d_test_ids.csv", "0\n")
    for kind in ("images", "abc_images"):
        put(folder / f"ai2d/{kind}/0.png", png())


def textvqa(folder: Path) -> None:
    row = {"question_id": 34602, "question": "what brand?", "image_id": "003a8ae2ef43b901", "set_name": "val"}
    data = [row | {"answers": ["dakota digital"] * 4 + ["dakota"] * 6}]
    put(folder / "TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data})
    put(folder / "train_images/003a8ae2ef43b901.jpg", jpg())


def physbench(folder: Path) -> None:
    question = "<image>\nWhich falls first?\nA. the ball\nB. the feather\nC. neither\nD. both"
    row = {"idx": 2, "question": question, "file_name": ["a.jpg"], "mode": "image-only", "task_type": "dynamics"}
    film = row | {"idx": 3, "mode": "image&video", "file_name": ["a.jpg", "b.mp4"]}
    put(folder / "test.json", [row, film, row | {"idx": 9}])
    put(folder / "val_answer.json", [{"idx": 2, "answer": "A"}, {"idx": 3, "answer": "B"}])
    put(folder / "image/a.jpg", jpg())


def qbench(folder: Path) -> None:
    row = {"img_path": "00218.jpg", "question": "How sharp is the dog?", "type": 1, "concern": 2}
    rows = [
        row | {"candidates": ["Sharp", "Blurry", "Medium"], "correct_ans": "Blurry"},
        row | {"question": "Is it noisy?", "type": 0, "concern": 0, "candidates": ["Yes", "No"], "correct_ans": "No"},
    ]
    put(folder / "llvisionqa_dev.json", rows)
    put(folder / "images/00218.jpg", jpg())


def easy_vqa(folder: Path) -> None:
    rows = [["what is the red shape?", "circle", 0], ["is there a blue shape?", "no", 0], ["what color?", "red", 1]]
    put(folder / "test/questions.json", rows)
    put(folder / "test/images/0.png", png())
    put(folder / "test/images/1.png", png("blue", "P"))


def jsonl(folder: Path) -> None:
    row = {"image": "a.png", "question": "What color?", "answer": "red", "id": "q1", "style": "word", "split": "test"}
    put(folder / "questions.jsonl", text_of(row) + "\n\n" + text_of(row | {"id": "q2", "split": "dev"}))
    put(folder / "a.png", png())


# A dataset that is not here has a test file of its own, `test_<name>.py`.
OFFICIAL: dict[str, Callable[[Path], None]] = {
    "vqav2": vqav2,
    "visual7w": visual7w,
    "cocoqa": cocoqa,
    "clevr": clevr,
    "aokvqa": aokvqa,
    "aokvqa_direct": aokvqa,
    "tqa": tqa,
    "mathvista": mathvista,
    "stvqa": stvqa,
    "docvqa": docvqa,
    "mmbench": mmbench,
    "mme": mme,
    "cvbench2d": cvbench,
    "cvbench3d": cvbench,
    "gqa": gqa,
    "scienceqa": scienceqa,
    "ai2d": ai2d,
    "textvqa": textvqa,
    "physbench": physbench,
    "qbench": qbench,
    "easy_vqa": easy_vqa,
    "jsonl": jsonl,
}


def has_test_file(name: str) -> bool:
    return (Path(__file__).parent / f"test_{name}.py").exists()
