"""FLOPs of the pocket model (2 x multiply-add of matrix products and convolutions), in closed form.

`encode`, `route`, `replaced` and `gradient` count what the port runs, the others what it saves (`costs.py`). Tests hold
each against a count over its program.

A backward pass asks twice the products of attention (scores and sums, each with respect to both sides) and once those
of a linear map whose weights stay as they are.

Letters: I image cells, T question tokens, A answer tokens.
"""

from __future__ import annotations

from ports.pocket.config import PocketConfig


def _encoders(config: PocketConfig) -> tuple[int, int]:
    """All vision encoders: everything, and their first convolutions, which no gradient passes."""
    c1, c2, c3, c4 = config.convolutions
    number, cells, features = len(config.experts) + 1, config.cells, config.expert_width
    first = 32**2 * 27 * c1
    later = 16**2 * 9 * c1 * c2 + 8**2 * 9 * c2 * c3 + cells * 4 * c3 * c4 + cells * c4 * features
    return 2 * number * (first + later), 2 * number * first


def _projections(config: PocketConfig) -> int:
    """Keys and values of every expert in every mixer, and the stream."""
    features = config.cells * config.expert_width
    experts = config.mixers * len(config.experts) * (config.key_width + config.channel)
    return 2 * features * (experts + config.channel)


def _looks(config: PocketConfig) -> tuple[int, int]:
    """What a mixer's experts say: queries, and attention."""
    experts, cells, channel, key = len(config.experts), config.cells, config.channel, config.key_width
    return 2 * experts * cells * channel * key, 2 * experts * cells**2 * (key + channel)


def _weighted_sums(config: PocketConfig) -> int:
    """Sums over the experts of one mixer."""
    return 2 * len(config.experts) * config.cells * config.channel


def _projector(config: PocketConfig) -> int:
    return 2 * config.cells * config.width * (config.channel + config.width)


def _keys_values(config: PocketConfig, tokens: int) -> int:
    return 4 * tokens * config.width**2


def _linears(config: PocketConfig, tokens: int) -> int:
    """A block's maps but for keys and values."""
    return 4 * tokens * config.width * (config.width + config.hidden)


def _attention(config: PocketConfig, tokens: int, context: int) -> int:
    return 4 * tokens * context * config.width


def _block(config: PocketConfig, tokens: int, context: int) -> int:
    return _keys_values(config, tokens) + _linears(config, tokens) + _attention(config, tokens, context)


def _head(config: PocketConfig, tokens: int) -> int:
    return 2 * tokens * config.width * config.vocab_size


def encode(config: PocketConfig) -> int:
    """`PocketModel.encode`: everything that does not depend on routing."""
    question = config.depth * _block(config, config.question_length, config.question_length)
    return _encoders(config)[0] + _projections(config) + sum(_looks(config)) + question


def route(config: PocketConfig) -> int:
    """`PocketModel.route`: the gate."""
    return 2 * (config.width + config.channel + config.mixers * len(config.experts)) * config.gate_hidden


def replaced(config: PocketConfig) -> int:
    """`PocketModel.answer_loss` under given weights: one evaluation."""
    return _mixing(config) + _reading(config, whole=False) + _answering(config)


def gradient(config: PocketConfig) -> int:
    """The loss and its gradient with respect to r, from features."""
    return replaced(config) + _back_to_mixers(config, whole=False) + _back_to_routing(config)


def whole(config: PocketConfig, logits: bool = True) -> int:
    """The loss from features with every image cell finished in the last block, and with `logits` for each of them."""
    return _mixing(config) + _reading(config, whole=True) + _answering(config) + logits * _head(config, config.cells)


def whole_gradient(config: PocketConfig, logits: bool = True) -> int:
    """`whole` and its gradient with respect to r; what no answer reads is differentiated with the `logits` alone."""
    back = _back_to_mixers(config, whole=logits) + _back_to_routing(config) + logits * _head(config, config.cells)
    return whole(config, logits) + back


def training(config: PocketConfig) -> int:
    """`encode` and `whole` with the gradient of every parameter: three times everything, with two exceptions.

    No gradient goes to the pixels, and none through the question's last block but for its keys and values.
    """
    question = config.question_length
    unread = _linears(config, question) + _attention(config, question, question)
    return 3 * (encode(config) + whole(config)) - _encoders(config)[1] - 2 * unread


def _mixing(config: PocketConfig) -> int:
    later = (config.mixers - 1) * sum(_looks(config))
    return config.mixers * _weighted_sums(config) + later + _projector(config)


def _context(config: PocketConfig) -> int:
    return config.question_length + config.cells


def _reading(config: PocketConfig, whole: bool) -> int:
    """Image cells in the language model; after the last block nobody reads them, unless `whole`."""
    cells = config.cells
    queries = config.depth if whole else config.depth - 1
    asked = _linears(config, cells) + _attention(config, cells, _context(config))
    return config.depth * _keys_values(config, cells) + queries * asked


def _answering(config: PocketConfig) -> int:
    answer = config.answer_length
    return config.depth * _block(config, answer, _context(config) + answer) + _head(config, answer)


def _back_to_mixers(config: PocketConfig, whole: bool) -> int:
    """From the loss to the image cells; the answer's own tokens do not depend on r before the first block's sums."""
    answer, cells = config.answer_length, config.cells
    context = _context(config)
    first = _linears(config, answer) - 2 * answer * config.width**2  # its queries are known
    first += 3 * _attention(config, answer, context + answer) // 2
    later = _block(config, answer, context + answer) + _attention(config, answer, context + answer)
    answering = _head(config, answer) + first + (config.depth - 1) * later
    reading = _reading(config, whole) + (config.depth if whole else config.depth - 1) * _attention(
        config, cells, context
    )
    return answering + reading + _projector(config)


def _back_to_routing(config: PocketConfig) -> int:
    """Through the mixers: each sum with respect to its weights, all but the first to the stream before it too.

    Keys and values of the experts are known, so attention goes back through its queries alone, once.
    """
    return (2 * config.mixers - 1) * _weighted_sums(config) + (config.mixers - 1) * sum(_looks(config))
