"""Set scores of small datasets, computed by hand; test_golden.py has the recorded test cases."""

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import get_metric, get_set_score


def samples(*pairs: tuple[str, str]) -> list[Sample]:
    """Samples by id and category."""
    image = np.zeros((1, 1, 3), np.uint8)
    return [Sample(id=name, image=image, question="?", answers=("Yes",), category=category) for name, category in pairs]


def test_accuracy_is_the_mean_over_all_samples_and_over_each_category() -> None:
    rows = samples(("1", "b"), ("2", "a"), ("3", "b"), ("4", ""))
    assert get_set_score("accuracy")([1.0, 0.3, 0.0, 1.0], rows) == pytest.approx({"accuracy": 57.5, "a": 30, "b": 50})


def test_mme_adds_accuracy_and_accuracy_plus() -> None:
    names = ("count/1.jpg#1", "count/1.jpg#2", "count/2.jpg#1", "count/2.jpg#2")
    rows = samples(*((name, "count") for name in names), ("OCR/1.jpg#1", "OCR"), ("OCR/1.jpg#2", "OCR"))
    scores = get_set_score("mme")([1, 1, 1, 0, 0, 1], rows)
    assert scores == pytest.approx({"perception": 175, "count": 125, "OCR": 50})  # 75 + 50, 50 + 0


def test_mme_refuses_half_an_image() -> None:
    with pytest.raises(R2T2Error, match=r"needs both questions about count/1\.jpg, which has 1; take whole images"):
        get_set_score("mme")([1.0], samples(("count/1.jpg#1", "count")))


def test_mmbench_counts_a_question_when_every_pass_is_right() -> None:
    rows = samples(*((name, "ocr") for name in ("7", "1000007", "8", "1000008", "2000008")))
    assert get_set_score("mmbench")([1, 1, 1, 0, 1], rows) == pytest.approx(
        {"circular": 50, "vanilla": 100, "all_rows": 80}
    )
    assert "vanilla" not in get_set_score("mmbench")([1.0], samples(("1000007", "ocr")))


def test_cvbench_is_a_mean_over_sources_not_over_questions() -> None:
    samples_2d = samples(("1", "ADE20K/Count"), ("2", "COCO/Count"), ("3", "COCO/Relation"))
    scores = get_set_score("cvbench")([1, 0, 0], samples_2d)
    assert scores["2d"] == 50 and scores["micro"] == pytest.approx(100 / 3) and "overall" not in scores
    both = [*samples_2d, *samples(("4", "Omni3D/Depth"))]
    assert list(get_set_score("cvbench")([1, 0, 0, 1], both).items())[:3] == [("overall", 75), ("2d", 50), ("3d", 100)]


def test_an_unknown_set_score_lists_the_known_ones() -> None:
    with pytest.raises(R2T2Error, match="unknown set score 'f1'; choose one of accuracy, mme, mmbench, cvbench"):
        get_set_score("f1")


def test_qbench_is_the_accuracy_then_that_of_kinds_and_concerns():
    categories = ("how, local distortion", "how, global other", "yes or no, local distortion")
    rows = samples(*((str(i), category) for i, category in enumerate(categories)))
    assert get_set_score("qbench")([1.0, 0.0, 1.0], rows) == {
        "accuracy": pytest.approx(200 / 3),
        "how": 50.0,
        "yes or no": 100.0,
        "global other": 0.0,
        "local distortion": 100.0,
    }


@pytest.mark.parametrize(
    ("prediction", "moai", "matched"),
    [("B", 1, 1), ("B.", 0, 1), ("Blurry", 0, 1), ("A", 0, 0), ("", 0, 0), ("C", 0, 0), ("unsure", 0, 0), ("D", 0, 0)],
)
def test_answers_to_qbench_are_read_as_letters(prediction, moai, matched):
    blurry = Sample("1", np.zeros((1, 1, 3), np.uint8), "?", ("B",), ("Sharp", "Blurry", "Medium"))
    assert get_metric("qbench_moai")(prediction, blurry) == moai
    assert get_metric("qbench")(prediction, blurry) == matched


def test_moais_script_takes_an_unreadable_answer_for_the_last_option():
    last = Sample("1", np.zeros((1, 1, 3), np.uint8), "?", ("C",), ("Sharp", "Blurry", "Medium"))
    assert get_metric("qbench_moai")("unsure", last) == 1
