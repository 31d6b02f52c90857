"""Host side: prompts, masks, buckets, images, answers."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from ports.moai.auxiliary.record import AuxRecord, TextLine
from ports.moai.auxiliary.verbalize import verbalize
from ports.moai.config import MoAIConfig
from ports.moai.port import MAX_NEW_TOKENS, TOKEN_LIMITS
from ports.moai.processing import TEXT_BUCKET, MoAIProcessor, MoAITokenizer, format_question, user_turn
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from tests.ports.moai.sentences import train_tokenizer

CONFIG = dataclasses.replace(MoAIConfig.tiny(), vocab_size=128, image_id=128)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.model"
    train_tokenizer(path, 128)
    return MoAITokenizer(path, CONFIG).adjusted()


@pytest.fixture(scope="module")
def processor(tokenizer):
    return MoAIProcessor(tokenizer.config, tokenizer)


def sample(question="what is this", **changes):
    image = np.random.default_rng(len(question)).integers(0, 256, (12, 31, 3)).astype(np.uint8)
    return Sample(**{"id": "s", "image": image, "question": question, "answers": ("A",)} | changes)


def test_styles_add_options_and_instructions():
    assert format_question("Which?", ("red", "blue"), "letter") == (
        "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )
    assert format_question("Which?", (), "word") == "Which?\nAnswer the question using a single word or phrase."
    assert format_question("<image>\nWhich?", (), "plain") == "Which?"
    assert user_turn("Q") == " [UNUSED_TOKEN_146]user\nQ[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"
    with pytest.raises(R2T2Error, match="essay"):
        format_question("Which?", (), "essay")


def test_benchmarks_have_their_own_prompts(processor, tokenizer):
    options, request = ("red", "", "blue"), "Answer with the option's letter from the given choices directly."
    assert format_question("Which?", options, "letter", "ai2d") == f"Which?\nA. red\nC. blue\n\n{request}"
    assert format_question("Which?", options, "letter", "mmbench") == f"Which?\nA. red\nC. blue\n{request}"
    tokens = "Reference OCR token: DAKOTA, DIGITAL"
    text = f"What brand?\n{tokens}\nAnswer the question using a single word or phrase."
    assert format_question("What brand?", (), "word", "textvqa", tokens) == text
    inputs = processor.prepare(None, [sample("What brand?", style="word", dataset="textvqa", context=tokens)])
    row = np.asarray(inputs.tokens[0])[np.asarray(inputs.mask[0]) & ~np.asarray(inputs.before_image[0])]
    assert row.tolist() == tokenizer.prompt(user_turn(text)).after


def test_the_published_answers_to_mme_have_five_tokens():
    assert (MAX_NEW_TOKENS, TOKEN_LIMITS) == (128, {"mme": 5})


def test_prompts_surround_the_image_and_are_padded_on_the_left(processor, tokenizer):
    inputs = processor.prepare(None, [sample(), sample("what is the color of the small box under the table near you")])
    assert inputs.tokens.shape[1] % TEXT_BUCKET == 0
    for row, question in enumerate(("what is this", "what is the color of the small box under the table near you")):
        pieces = tokenizer.prompt(user_turn(question))
        mask, before = np.asarray(inputs.mask[row]), np.asarray(inputs.before_image[row])
        tokens = np.asarray(inputs.tokens[row])
        assert tokens[mask & before].tolist() == pieces.before and pieces.before[0] == CONFIG.bos_id
        assert tokens[mask & ~before].tolist() == pieces.after
        assert mask.sum() == len(pieces.before) + len(pieces.after) and mask[-1]
        assert (np.asarray(inputs.language[row]) == mask).all()
    verbalization = np.asarray(inputs.verbalization[0])[np.asarray(inputs.verbalization_mask[0])]
    assert verbalization.tolist() == tokenizer.verbalization("   ")  # three joining spaces, nothing between them
    assert not np.asarray(inputs.segments).any()


def test_images_are_resized_by_the_bilinear_filter(processor):
    wide = sample()
    inputs = processor.prepare(None, [wide])
    size = (CONFIG.image_size, CONFIG.image_size)
    expected = np.asarray(Image.fromarray(wide.image).resize(size, Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(inputs.image[0], expected)


def test_answers_are_decoded_from_their_tokens(processor, tokenizer):
    answers = processor.answer_ids(["A", "big red box"])
    assert jax.tree.leaves(answers)[0].shape == (2, 8) or answers.tokens.shape[1] % 8 == 0
    end = tokenizer.config.end_id
    for row in range(2):
        ids = np.asarray(answers.tokens[row])[np.asarray(answers.mask[row])]
        assert ids[-1] == end and end not in ids[:-1]
    assert processor.decode(np.asarray(answers.tokens)) == ["A", "big red box"]


def test_auxiliary_text_reaches_the_model(tokenizer):
    class Reader:
        fingerprint = "reader"

        def __call__(self, image, record):
            size = (CONFIG.image_size, CONFIG.image_size)
            return dataclasses.replace(record, map=np.full(size, 3, np.uint8), lines=(TextLine("dogs", 0.9),))

    inputs = MoAIProcessor(tokenizer.config, tokenizer, Reader()).prepare(None, [sample()])
    text = verbalize(AuxRecord("", lines=(TextLine("dogs", 0.9),)), CONFIG.image_size)
    assert text == "   The image includes text descriptions: dogs."
    tokens = np.asarray(inputs.verbalization[0])[np.asarray(inputs.verbalization_mask[0])]
    assert tokens.tolist() == tokenizer.verbalization(text)
    assert (np.asarray(inputs.segments) == 3).all()


def test_bad_prompts_and_tokenizers_are_refused(processor, tmp_path):
    with pytest.raises(R2T2Error, match="too long"):
        processor.prepare(None, [sample("what is this " * 400)])
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"no model")
    with pytest.raises(R2T2Error, match="sentencepiece"):
        MoAITokenizer(path, CONFIG).adjusted()
    train_tokenizer(path, 96)
    with pytest.raises(R2T2Error, match="96 pieces"):
        MoAITokenizer(path, CONFIG).adjusted()
