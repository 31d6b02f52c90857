"""Prompts of Qwen3.5-MoE against the recorded text of its chat template."""

import json

import pytest

from ports.common.moe_lm.chat import Chat, ChatTokenizer
from tests.goldens import EXTRA

CONVERSATIONS = sorted(path for folder in EXTRA for path in folder.rglob("conversations.json"))
OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("path", CONVERSATIONS, ids=str)
def test_conversations_have_the_recorded_text_with_the_think_block_closed(path):
    """The released template is read where it is, and is not in this repository."""
    template = (path.parent / "chat_template_qwen3_5.jinja").read_text()
    tokenizer = ChatTokenizer(path.parent, Chat(template, (248_046,)))
    for conversation in json.loads(path.read_text())["conversations"]:
        if "qwen3_5" not in conversation["rendered"]:
            continue
        text = tokenizer.render(
            conversation["messages"],
            **conversation["kwargs"],
            tools=conversation["tools"],
            add_generation_prompt=conversation["add_generation_prompt"],
        )
        expected = conversation["rendered"]["qwen3_5"]
        expected = expected.removesuffix(OPEN) + CLOSED if expected.endswith(OPEN) else expected
        assert text == expected, conversation["name"]
