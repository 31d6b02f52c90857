"""Tokens, images and embeddings of the pocket port; its dataset."""

import numpy as np
import pytest

from ports.pocket.port import load
from ports.pocket.tokenizer import BEGIN, END, PAD, UNKNOWN, Tokenizer
from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error

WORDS = Tokenizer(("red", "circle", "top", "left", "?"))


def test_decoding_inverts_encoding():
    assert WORDS.decode(WORDS.encode("Top left")) == "top left"
    assert WORDS.encode("a red circle?")[0] == UNKNOWN
    assert WORDS.decode([WORDS.encode("red")[0], END, BEGIN]) == "red"
    assert WORDS.decode([PAD]) == ""


def test_unknown_words_are_listed_once_and_a_text_without_words_as_a_whole():
    assert WORDS.unknown("a red zebra left of a circle?") == ["a", "zebra", "of"]
    assert WORDS.unknown(" \N{GRINNING FACE} ") == ["\N{GRINNING FACE}"]
    assert WORDS.unknown("Red?") == []


def test_truncated_answers_end_with_the_end_token():
    tokens, mask = WORDS.pad_answers(["red", "top left", "top left red circle"], 3)
    assert [row[m][-1] for row, m in zip(tokens, mask, strict=True)] == [END] * 3
    assert tokens[0].tolist() == [*WORDS.encode("red"), END, PAD]


@pytest.fixture(scope="module")
def port():
    return load("balanced")


def sample(image, question="what color is the circle ?"):
    return Sample(id="0", image=image, question=question, answers=("red",))


def test_images_of_any_size_fit(port):
    big = np.zeros((200, 300, 3), np.uint8)
    inputs = port.processor.prepare(port.params, [sample(big), sample(big[:96, :96])])
    assert inputs.image.shape == (2, 96, 96, 3)
    assert inputs.tokens.shape == inputs.mask.shape == (2, 16)


def test_embeddings_are_unit_vectors_of_the_words_only(port):
    texts = ["what color is the circle ?", "how many crosses are there ?", "what color is the circle ?"]
    vectors = port.embedder.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[0] == port.embedder.embed(texts[:1])[0]).all()
    assert vectors[0] @ vectors[1] < 0.9


def test_the_dataset_depends_on_the_seed_and_names_the_needed_experts():
    first, again, other = (load_dataset("pocket", "test", 8, seed) for seed in (0, 0, 1))
    assert [a.question for a in first] == [b.question for b in again]
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert not any((a.image == b.image).all() for a, b in zip(first, other, strict=True))
    assert all(set(sample.experts) <= {"color", "shape", "texture", "glyph", "size", "position"} for sample in first)
    assert load_dataset("pocket", "test", 5, 0)[4].id == first[4].id


def test_an_unknown_split_is_refused_with_the_list_of_splits():
    with pytest.raises(R2T2Error, match="train, gate, reference, validation, test"):
        load_dataset("pocket", "dev", 3)


def test_texts_that_occur_again_have_the_same_embedding_in_any_order(port):
    texts = ["what color is the circle ?", "is there a red thing ?", "how many things are there ?"]
    first = port.embedder.embed(texts)
    again = port.embedder.embed([texts[2], "where is the cross ?", texts[0], texts[2]])
    np.testing.assert_array_equal(again[[0, 2, 3]], first[[2, 0, 2]])
    assert load("narrow").embedder.known is port.embedder.known
    assert port.embedder.embed([]).shape == (0, first.shape[1])
