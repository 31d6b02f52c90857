"""Contractions as the VQA scorers spell them out: `dont` becomes `don't`.

The published table (GT-Vision-Lab/VQA vqaEval.py, the same in mmf's and VLMEvalKit's copies) follows one rule: a key is
the correct spelling with one apostrophe missing. Its keys with capital letters can never match, because words are in
lower case by then, and are left out; `somebody'd` is the one entry that goes the other way round.
"""

from __future__ import annotations

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_MORE_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""


def _misspellings(word: str) -> list[str]:
    """The word with one of its apostrophes left out, each in turn."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS: dict[str, str] = {
    wrong: word for word in (_ONE_APOSTROPHE + _MORE_APOSTROPHES).split() for wrong in _misspellings(word)
} | {"somebody'd": "somebodyd"}
