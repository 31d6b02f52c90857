"""What is measured for some tables: each row once, blocks that cover every question, settings a model has."""

from r2t2_jax.method.presets import PAPER, Preset
from r2t2_jax.reproduction.plan import found_embedder, plan_rows
from r2t2_jax.reproduction.spec import choose_tables, tables

OWN = Preset.from_mapping({"space.kind": "simplex", "descent.optimizer": "adam", "descent.learning_rate": 0.3})
TWO = {"own": OWN, "paper": PAPER}


def test_the_same_numbers_are_one_measurement_whatever_the_table() -> None:
    plan = plan_rows("m", TWO, 100, choose_tables("table5") + choose_tables("table6"), None)
    cells = {
        (table, setting, cell.trial.name): cell.label for (table, setting), row in plan.cells.items() for cell in row
    }
    assert cells["table5", "own", "k 5"] == cells["table6", "own", "gaussian"]
    assert cells["table5", "own", "k 5"] != cells["table5", "paper", "k 5"]
    assert cells["table5", "own", "base"] == cells["table6", "paper", "base"] == "base"
    # base; and under either setting eight neighbourhoods and the three kernels that are not Gaussian
    assert len(plan.measurements) == 1 + 2 * (8 + 3)


def test_a_report_calls_strategies_by_their_names() -> None:
    plan = plan_rows("m", TWO, 100, choose_tables("table2") + choose_tables("table6"), None)
    assert {"base", "ngd", "ngd_paper", "oracle"} <= set(plan.measurements)
    assert plan.measurements["ngd"].along and plan.measurements["ngd"].detailed
    cell = next(cell for cell in plan.cells["table6", "own"] if cell.trial.name == "gaussian")
    assert cell.label == "ngd"


def test_blocks_cover_each_question_of_each_row_once() -> None:
    plan = plan_rows("m", TWO, 700, choose_tables("table2") + choose_tables("table6"), None)
    cases: dict[str, int] = {}
    for block in plan.blocks(300):
        for label in block.labels:
            cases[label] = cases.get(label, 0) + min(block.stop, plan.measurements[label].cases) - block.start
    assert cases == {label: one.cases for label, one in plan.measurements.items()}
    assert cases["ngd"] == 700  # of 1,000 that table2 asks for there are no more
    assert cases["table6/own/linear"] == 500


def test_a_model_without_settings_of_its_own_runs_every_table_under_the_papers() -> None:
    plan = plan_rows("m", {"paper": PAPER}, 10, list(tables().values()), 10)
    assert {table for table, _ in plan.cells} == set(tables())
    assert {setting for _, setting in plan.cells} == {"paper"}


def test_an_embedder_in_the_folder_is_taken_from_there(tmp_path) -> None:
    (tmp_path / "stella").mkdir()
    assert found_embedder("stella", tmp_path) == f"stella:{tmp_path / 'stella'}"
    assert found_embedder("nv_embed", tmp_path) == "nv_embed"
    assert found_embedder("", tmp_path) == ""


def test_an_embedder_that_is_not_there_leaves_a_row_unrun() -> None:
    plan = plan_rows("m", TWO, 10, choose_tables("table7"), 10)
    cells = {cell.trial.name: cell for cell in plan.cells["table7", "own"]}
    assert "weights" in cells["NV-Embed-v2"].not_run and not cells["NV-Embed-v2"].label
    assert cells["hashed words"].label == "table7/own/hashed words"
