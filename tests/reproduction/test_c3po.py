"""What C3PO reports next to the measured rows, and the oracle's control with permuted labels, by hand."""

from dataclasses import dataclass

import numpy as np

from r2t2_jax.reproduction.kinds.c3po import c3po, published
from r2t2_jax.reproduction.plan import PlannedRow
from r2t2_jax.reproduction.spec import RowSpec

N = 100
RIGHT = {  # number of right answers, from the first question on; base is right on the first 40
    "base": 40,
    "oracle": 80,
    "ngd, C3PO": 41,
    "uniform": 20,
    "atlas": 60,
    "base_permuted": 20,
    "oracle_permuted": 60,
}


@dataclass
class Data:
    names: list[str]

    @property
    def rows(self) -> list[PlannedRow]:
        return [PlannedRow(RowSpec(name, name.partition(",")[0]), label=name) for name in self.names]

    @property
    def families(self) -> list[str]:
        return ["size"] * 50 + ["color"] * 50

    def right(self, name: str) -> np.ndarray:
        return np.arange(N) < RIGHT[name]


def test_gains_are_next_to_the_published_ones_and_bounds_are_left_out() -> None:
    result = c3po(Data(list(RIGHT)))
    assert result["columns"] == {"C3PO reports": {"oracle": "+10 to +20 %", "ngd, C3PO": "+7 to +15 %"}}
    assert (result["numbers"]["better"], result["numbers"]["worse"]) == (["atlas"], ["uniform"])
    assert published()["source"] == "arXiv 2504.07964"


def test_the_oracle_is_compared_with_the_same_descent_on_permuted_labels() -> None:
    result = c3po(Data(list(RIGHT)))
    permuted = result["numbers"]["permuted"]
    assert (permuted["gain"][0], permuted["permuted_gain"][0]) == (40.0, 40.0)
    assert permuted["reached"] == {"right": 40 / 60, "permuted": 40 / 80}
    assert "right label for 67 % and the permuted label for 50 %" in result["notes"][1]
    (by_family,) = result["tables"]
    assert by_family["head"] == ["family", "n", "base", "oracle", "base_permuted", "oracle_permuted"]
    assert by_family["rows"] == [
        ["color", "50", "0.0", "60.0", "0.0", "20.0"],
        ["size", "50", "80.0", "100.0", "40.0", "100.0"],
    ]
    without = c3po(Data(["base", "oracle", "uniform"]))
    assert not without["tables"]
    assert len(without["notes"]) == 1 and "permuted" not in without["numbers"]
