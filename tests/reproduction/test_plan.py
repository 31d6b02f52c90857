"""The plan of tables: each row is measured once, blocks cover every question, settings follow the model."""

from dataclasses import replace

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import C3PO, PAPER, Preset
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load
from r2t2_jax.reproduction import plan as planning
from r2t2_jax.reproduction.plan import embedder_path, open_targets, plan_rows, plan_target
from r2t2_jax.reproduction.spec import choose_tables

OWN = Preset.from_mapping({"space.kind": "simplex", "descent.optimizer": "adam", "descent.learning_rate": 0.3})
TWO = {"own": OWN, "paper": PAPER}


def test_equal_rows_of_several_tables_are_one_measurement() -> None:
    plan = plan_rows("m", TWO, 100, choose_tables("table5") + choose_tables("table6"), None)
    labels = {(table, setting, row.name): row.label for (table, setting), rows in plan.rows.items() for row in rows}
    assert labels["table5", "own", "k 5"] == labels["table6", "own", "gaussian"]
    assert labels["table5", "own", "k 5"] != labels["table5", "paper", "k 5"]
    assert labels["table5", "own", "base"] == labels["table6", "paper", "base"] == "base"
    # base; and under either setting eight neighborhoods and the three non-Gaussian kernels
    assert len(plan.measurements) == 1 + 2 * (8 + 3)


def test_detailed_rows_are_labeled_by_strategy_names() -> None:
    plan = plan_rows("m", TWO, 100, choose_tables("table2") + choose_tables("table6"), None)
    assert {"base", "ngd", "ngd_paper", "oracle"} <= set(plan.measurements)
    assert plan.measurements["ngd"].answer_steps and plan.measurements["ngd"].detailed
    row = next(row for row in plan.rows["table6", "own"] if row.name == "gaussian")
    assert row.label == "ngd"


def test_blocks_cover_each_question_of_each_row_once() -> None:
    plan = plan_rows("m", TWO, 700, choose_tables("table2") + choose_tables("table6"), None)
    counts: dict[str, int] = {}
    for block in plan.blocks(300):
        for label in block.labels:
            counts[label] = counts.get(label, 0) + min(block.stop, plan.measurements[label].samples) - block.start
    assert counts == {label: measurement.samples for label, measurement in plan.measurements.items()}
    assert counts["ngd"] == 700  # table2 has 1,000 questions, the target 700
    assert counts["table6/own/linear"] == 500


def test_a_model_without_own_settings_runs_every_table_under_the_papers() -> None:
    tables = choose_tables("all")
    plan = plan_rows("m", {"paper": PAPER}, 10, tables, 10)
    assert {table for table, _ in plan.rows} == {table.name for table in tables}
    assert {setting for _, setting in plan.rows} == {"paper"}


def test_a_row_has_settings_of_its_own() -> None:
    for presets, own in ((TWO, OWN), ({"paper": PAPER}, C3PO)):
        plan = plan_rows("m", presets, 10, choose_tables("c3po_methods"), 10)
        labels = {row.name: row.label for row in plan.rows["c3po_methods", "c3po"]}
        expected = {"ngd, C3PO": C3PO, "ngd, R2-T2": PAPER, "ngd, own": own}
        for name, preset in expected.items():
            assert plan.measurements[labels[name]].method == strategy("ngd", preset), name


def test_a_variant_is_a_model_of_its_own_with_the_same_parameters(monkeypatch) -> None:
    port = load("pocket:narrow")
    monkeypatch.setattr(planning, "load", lambda name: replace(port, name=name, params=dict(port.params)))
    (table,) = choose_tables("c3po_scope")
    tables = [table, *choose_tables("c3po_core")]
    targets = open_targets("pocket:narrow", (), 2, 0, variants=table.variants)
    names = ["pocket:narrow", *(f"pocket:narrow,scope={scope}" for scope in ("image", "text", "all"))]
    assert [target.name for target in targets] == [target.model for target in targets] == names
    assert all(target.port.params is targets[0].port.params for target in targets)
    planned = [{name for name, _ in plan_target(target, tables, None).rows} for target in targets]
    assert planned == [{"c3po_scope", "c3po_core"}, *[{"c3po_scope"}] * 3]


def test_an_embedder_is_loaded_from_the_folder(tmp_path) -> None:
    (tmp_path / "stella").mkdir()
    assert embedder_path("stella", tmp_path) == f"stella:{tmp_path / 'stella'}"
    assert embedder_path("nv_embed", tmp_path) == "nv_embed"
    assert embedder_path("", tmp_path) == ""


def test_a_row_with_a_missing_embedder_is_not_run() -> None:
    plan = plan_rows("m", TWO, 10, choose_tables("table7"), 10)
    rows = {row.name: row for row in plan.rows["table7", "own"]}
    assert "weights" in rows["NV-Embed-v2"].not_run and not rows["NV-Embed-v2"].label
    assert rows["hashed words"].label == "table7/own/hashed words"


def test_targets_decode_as_the_port_says_for_their_dataset(monkeypatch) -> None:
    port = replace(load("pocket:narrow"), token_limits={"pocket": 3})
    monkeypatch.setattr(planning, "load", lambda name: port)
    (target,) = open_targets("pocket:narrow", (), 2, 0)
    assert (target.port.beams, target.port.max_new_tokens) == (1, 3)
    (target,) = open_targets("pocket:narrow", (), 2, 0, max_new_tokens="pocket=7")
    assert target.port.max_new_tokens == 7
    with pytest.raises(R2T2Error, match=r"pocket.* has no beam search: leave out --beams 3"):
        open_targets("pocket:narrow", (), 2, 0, beams=3)
    with pytest.raises(R2T2Error, match="--max-new-tokens 'many' is not a number"):
        open_targets("pocket:narrow", (), 2, 0, max_new_tokens="many")
