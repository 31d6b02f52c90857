"""The files that describe tables, and the paper's numbers beside them."""

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import BASELINES, STRATEGIES
from r2t2_jax.reproduction.kinds import KINDS
from r2t2_jax.reproduction.paper import average, paper_numbers, paper_rows
from r2t2_jax.reproduction.spec import choose_tables, table_of, tables
from r2t2_jax.rivals.table import RIVALS

TABLES = [f"table{number}" for number in range(2, 14)]
FIGURES = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
PLAIN = {"shows": [], "title": "T", "question": "Q?", "kind": "sweep", "samples": 5, "settings": ["own"]}


def test_everything_the_paper_shows_of_results_has_a_table() -> None:
    for name in (*TABLES, *(f"figure{number}" for number in FIGURES)):
        assert choose_tables(name), name


def test_figure_3_and_table_1_show_no_result() -> None:
    for name in ("figure3", "table1", "nonsense"):
        with pytest.raises(R2T2Error, match="unknown table"):
            choose_tables(name)


def test_files_are_well_formed() -> None:
    for table in tables().values():
        assert table.kind in KINDS, table.name
        assert table.trials, table.name
        assert set(table.settings) <= {"own", "paper"}, table.name
        assert len({trial.name for trial in table.trials}) == len(table.trials)
        assert set(table.along) <= {trial.name for trial in table.trials}, table.name
        for trial in table.trials:
            assert trial.strategy in {**STRATEGIES, **BASELINES}, (table.name, trial.name)


def test_every_row_of_the_papers_ablations_stands_beside_one_of_ours() -> None:
    for name in ("table5", "table6", "table7", "table8", "table9"):
        table = choose_tables(name)[0]
        assert {trial.paper for trial in table.trials if trial.paper} == set(table.paper_rows)


@pytest.mark.parametrize(
    ("printed", "table", "row"),
    [
        ("table6_kernel_avg", "table11_kernel", "gaussian"),
        ("table6_kernel_avg", "table11_kernel", "linear"),
        ("table7_embedder_avg", "table12_embedder", "NV-Embed-v2"),
        ("table7_embedder_avg", "table12_embedder", "Sentence-BERT"),
        ("table8_steps_avg", "table13_steps", "10"),
        ("table8_steps_avg", "table13_steps", "50"),
    ],
)
def test_averages_are_those_the_paper_prints(printed: str, table: str, row: str) -> None:
    assert round(average(paper_rows(table)[row]), 1) == pytest.approx(paper_numbers()[printed][row], abs=0.051)


def test_every_rival_has_a_row() -> None:
    rows = {trial.strategy for trial in choose_tables("rivals")[0].trials}
    assert set(RIVALS) | set(BASELINES) <= rows


def test_a_grid_is_every_combination() -> None:
    table = table_of(
        "t",
        {
            **PLAIN,
            "grid": {"neighborhood.k": [3, 5], "neighborhood.kernel": ["linear"]},
            "common": {"descent.steps": 2},
        },
    )
    assert {trial.name: trial.preset for trial in table.trials} == {
        "3, linear": {"neighborhood.k": 3, "neighborhood.kernel": "linear", "descent.steps": 2},
        "5, linear": {"neighborhood.k": 5, "neighborhood.kernel": "linear", "descent.steps": 2},
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({**PLAIN, "colour": 1}, "unknown fields"),
        ({**PLAIN, "rows": {"a": {"strength": 1}}}, "row 'a' has unknown fields"),
        ({**PLAIN, "rows": {"a": {"given": {"shares": 1}}}}, "in its given"),
        ({**PLAIN, "rows": {"a": {"given": {"share": 0}}}}, "row 'a': a share of 0"),
        ({**PLAIN, "rows": {"a": {"preset": {"kay": 3}}}}, "settings in no block: 'kay'"),
        ({**PLAIN, "paper": "table11_kernel", "rows": {"a": {"paper": "cubic"}}}, "has no row 'cubic'"),
        ({**PLAIN, "paper": "table99", "rows": {"a": {"paper": "cubic"}}}, "no table 'table99'"),
    ],
)
def test_bad_files_are_refused(content: dict, told: str) -> None:
    with pytest.raises(R2T2Error, match=told):
        table_of("t", content)
