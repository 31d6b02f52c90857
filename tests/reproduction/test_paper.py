"""The average of the paper's Table 2, on the paper's own rows (arXiv 2502.20395)."""

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reproduction.paper import COLUMN_OF, paper_average, paper_rows

MOVA = dict(zip(COLUMN_OF, (74.3, 1579.2, 74.4, 74.9, 76.4, 64.8, 61.6, 62.3, 32.6), strict=True))


def test_the_points_of_mme_are_divided_by_20() -> None:
    assert paper_average(MOVA) == pytest.approx((74.3 + 78.96 + 74.4 + 74.9 + 76.4 + 64.8 + 61.6 + 62.3) / 8)
    assert paper_average(dict.fromkeys(COLUMN_OF, 100.0) | {"mme": 2000.0}) == pytest.approx(100.0)


def test_the_rows_of_table_2_give_the_printed_averages() -> None:
    row = paper_rows("table2")["MoAI ngd"]
    scores = {name: row[column] for name, column in COLUMN_OF.items()}
    assert round(paper_average(scores), 1) == 80.7
    assert round(paper_average({name: value for name, value in scores.items() if name != "physbench"}), 1) == 80.7


def test_a_missing_or_unknown_dataset_is_named() -> None:
    with pytest.raises(R2T2Error, match=r"missing or unknown: gqa$"):
        paper_average({name: value for name, value in MOVA.items() if name != "gqa"})
    with pytest.raises(R2T2Error, match=r"missing or unknown: vqa$"):
        paper_average(MOVA | {"vqa": 1.0})
