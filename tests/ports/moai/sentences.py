"""A sentencepiece model trained on a few sentences, with the special pieces that MoAI's has."""

from pathlib import Path

SENTENCE = "what is the color of this big red round box on a small green table near two dogs under blue sky"
WORDS = SENTENCE.split()


def train_tokenizer(path: Path, size: int) -> int:
    """Write a model of `size` pieces, those that open and close a turn and the line break among them."""
    import sentencepiece

    text = path.with_suffix(".txt")
    lines = [" ".join(WORDS[i % len(WORDS)] for i in range(start, start + 5)) for start in range(len(WORDS))]
    lines += [
        "AI assistant should give helpful and detailed answers to user after fully understanding an image.",
        "A. B. C. D.",
    ]
    text.write_text("\n".join(lines * 4), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(path.with_suffix("")),
        vocab_size=size,
        model_type="bpe",
        character_coverage=1.0,
        user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", "\n"],
        minloglevel=2,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    return size
