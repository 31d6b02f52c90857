"""The specifications of tables and the paper's numbers of their rows."""

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import BASELINES, STRATEGIES
from r2t2_jax.reproduction.kinds import KINDS
from r2t2_jax.reproduction.paper import average, paper_numbers, paper_rows
from r2t2_jax.reproduction.spec import SETTINGS, choose_tables, load_tables, parse_table
from r2t2_jax.rivals.table import RIVALS

TABLES = [f"table{number}" for number in range(2, 14)]
FIGURES = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
PLAIN = {"shows": [], "title": "T", "question": "Q?", "kind": "sweep", "samples": 5, "settings": ["own"]}


def test_every_result_of_the_paper_has_a_table() -> None:
    for name in (*TABLES, *(f"figure{number}" for number in FIGURES)):
        assert choose_tables(name), name


def test_a_group_has_its_tables_which_all_leaves_out() -> None:
    names = [table.name for table in choose_tables("c3po")]
    assert sorted(names) == ["c3po_atlas", "c3po_core", "c3po_layers", "c3po_methods", "c3po_references", "c3po_scope"]
    assert not set(names) & {table.name for table in choose_tables("all")}
    assert [table.name for table in choose_tables("c3po_scope")] == ["c3po_scope"]
    assert all(table.optional for table in choose_tables("c3po"))


def test_a_table_without_results_is_refused() -> None:
    for name in ("figure3", "table1", "nonsense"):
        with pytest.raises(R2T2Error, match="unknown table"):
            choose_tables(name)


def test_every_file_has_known_kinds_settings_and_strategies() -> None:
    for table in load_tables().values():
        assert table.kind in KINDS, table.name
        assert table.rows, table.name
        assert set(table.settings) <= set(SETTINGS), table.name
        assert len({row.name for row in table.rows}) == len(table.rows)
        assert set(table.answer_steps) <= {row.name for row in table.rows}, table.name
        for row in table.rows:
            assert row.strategy in {**STRATEGIES, **BASELINES}, (table.name, row.name)


def test_every_row_of_the_papers_ablations_is_reproduced() -> None:
    for name in ("table5", "table6", "table7", "table8", "table9"):
        table = choose_tables(name)[0]
        assert {row.paper for row in table.rows if row.paper} == set(table.paper_rows)


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
def test_averages_equal_the_printed_ones(printed: str, table: str, row: str) -> None:
    assert round(average(paper_rows(table)[row]), 1) == pytest.approx(paper_numbers()[printed][row], abs=0.051)


def test_every_rival_has_a_row() -> None:
    strategies = {row.strategy for row in choose_tables("rivals")[0].rows}
    assert set(RIVALS) | set(BASELINES) <= strategies


def test_a_grid_has_a_row_for_every_combination() -> None:
    grid = {"neighborhood.k": [3, 5], "neighborhood.kernel": ["linear"]}
    table = parse_table("t", {**PLAIN, "grid": grid, "common": {"descent.steps": 2}})
    assert {row.name: row.preset for row in table.rows} == {
        "3, linear": {"neighborhood.k": 3, "neighborhood.kernel": "linear", "descent.steps": 2},
        "5, linear": {"neighborhood.k": 5, "neighborhood.kernel": "linear", "descent.steps": 2},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**PLAIN, "color": 1}, "unknown fields"),
        ({**PLAIN, "settings": ["mine"]}, "unknown settings ..mine"),
        ({**PLAIN, "rows": {"a": {"settings": "mine"}}}, "unknown settings ..mine"),
        ({**PLAIN, "rows": {"a": {"strength": 1}}}, "row 'a' has unknown fields"),
        ({**PLAIN, "rows": {"a": {"condition": {"shares": 1}}}}, "in its condition"),
        ({**PLAIN, "rows": {"a": {"condition": {"share": 0}}}}, "row 'a': a share of 0"),
        ({**PLAIN, "rows": {"a": {"preset": {"kay": 3}}}}, "settings in no block: 'kay'"),
        ({**PLAIN, "paper": "table11_kernel", "rows": {"a": {"paper": "cubic"}}}, "has no row 'cubic'"),
        ({**PLAIN, "paper": "table99", "rows": {"a": {"paper": "cubic"}}}, "no table 'table99'"),
    ],
)
def test_an_invalid_file_is_refused(content: dict, message: str) -> None:
    with pytest.raises(R2T2Error, match=message):
        parse_table("t", content)
