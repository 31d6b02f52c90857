"""Numbers and names in reports, and values in templates."""

import io

import pytest
from jinja2 import UndefinedError

from r2t2_jax.evaluation.benchmark import model_of, title_of
from r2t2_jax.reporting.formatting import (
    decimal,
    distinct_names,
    duration,
    join_names,
    percent,
    plain_console,
    plural,
    settings_line,
    shorten,
    signed_interval,
)
from r2t2_jax.reporting.page import anchor, bar_width, render_template


def test_numbers_have_a_true_minus_sign_and_few_digits() -> None:
    assert (percent(0.4567), percent(None)) == ("45.7", "-")
    assert decimal(-0.123) == "−0.12"
    assert signed_interval(-1.25, 14.8) == "−1.2 to +14.8"
    assert (duration(0.01164), duration(2.349)) == ("11.6 ms", "2.35 s")


def test_lists_and_counts_read_as_english() -> None:
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"
    assert (plural(1, "answer"), plural(1200, "answer")) == ("1 answer", "1,200 answers")
    assert settings_line({"seed": 0, "max_length": 9, "out": "run", "data": {}}) == "seed 0, max length 9"
    assert settings_line({"embedder": "", "quick": False, "preset": None, "seed": 3}) == "seed 3"


def test_long_texts_end_in_an_ellipsis() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("one two three", 9) == "one two…"


def test_short_names_never_collide() -> None:
    names = ["a.b", "a-b", "A b", "a-b-2", "c"]
    short = distinct_names(names, anchor, "-")
    assert short == {"a.b": "a-b", "a-b": "a-b-2", "A b": "A-b-3", "a-b-2": "a-b-2-2", "c": "c"}
    assert len({name.casefold() for name in short.values()}) == len(names)


def test_the_model_of_a_title() -> None:
    for benchmark in ("gqa", "sets/cats on mats.jsonl", "on on on.jsonl"):
        assert model_of(title_of("pocket:narrow on trial", benchmark), benchmark) == "pocket:narrow on trial"


def test_anchors_and_bars_accept_any_name_and_share() -> None:
    assert anchor("pocket:narrow on a/b") == "pocket-narrow-on-a-b"
    assert [bar_width(share) for share in (-0.5, 0.256, 1.5)] == ["0.0%", "25.6%", "100.0%"]


def test_a_template_refuses_a_context_without_its_values() -> None:
    with pytest.raises(UndefinedError):
        render_template("base.html.j2")
    assert "<title>&lt;b&gt; &amp; &#34;</title>" in render_template("base.html.j2", title='<b> & "')


def test_no_color_leaves_out_every_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, has_escapes in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", setting)
        out = io.StringIO()
        plain_console(file=out, force_terminal=True).print("text", style="bold red")
        assert ("\x1b" in out.getvalue()) is has_escapes


def test_a_console_prints_in_a_notebook_as_in_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    plain_console().print("a table")
    assert capsys.readouterr().out == "a table\n"
