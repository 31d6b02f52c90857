"""Statistics of an atlas, against a table computed by hand."""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.analysis.atlas_inspection import inspect_atlas
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.atlas_points import LEVELS
from r2t2_jax.reporting.bank_report import atlas_sentences, atlas_tables

# Two categories, twelve references each. Colors have low losses at the first point, shapes at the second.
LOSSES = np.where(np.arange(24)[:, None] < 12, [0.0, 0.8, 0.6], [1.0, 0.2, 0.6])
POINTS = np.array([[[1, 0]], [[0, 1]], [[0.5, 0.5]]], np.float32)  # [G, L, E]


def bank(separate: bool) -> ReferenceBank:
    """Categories are separate clusters, or else every reference has a twin of the other category."""
    names = [f"r{i}" for i in range(24)]
    index = np.arange(24) % 12
    angles = (np.arange(24) >= 12) * 1.5 + index * 1e-3 if separate else index * 0.1
    return ReferenceBank(
        None,
        None,
        routing=np.full((24, 1, 2), 0.5, np.float32),
        embeddings=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        records=[{"id": name, "category": "color" if i < 12 else "shape"} for i, name in enumerate(names)],
        model_fingerprint="toy",
        atlas=Atlas(POINTS, np.rint(LOSSES * LEVELS).astype(np.uint8), None, "toy", ("red", "blue"), tuple(names)),
    )


def test_every_category_has_its_best_point():
    inspection = inspect_atlas(bank(separate=True), k=5)
    color, shape = inspection.sources
    assert (color.source, color.rows, color.point, color.weights) == ("color", 12, 0, (1.0, 0.0))
    assert (color.loss, color.loss_elsewhere) == pytest.approx((0.0, 1.0))
    assert (shape.source, shape.point) == ("shape", 1)
    assert (shape.loss, shape.loss_elsewhere) == pytest.approx((0.2, 0.8), abs=1e-2)


def test_neighbors_of_the_same_category_choose_the_right_point():
    inspection = inspect_atlas(bank(separate=True), k=5)
    assert inspection.spearman == pytest.approx(1)
    assert (inspection.by_points[-1].likely_right, inspection.by_points[-1].loss) == (1.0, pytest.approx(0.1, abs=1e-2))
    # The best point for all is the second, of mean loss one half: there only shapes are likely right.
    assert (inspection.fixed.likely_right, inspection.fixed.loss) == (0.5, pytest.approx(0.5, abs=1e-2))
    assert inspection.best.likely_right == 1
    assert [row.points for row in inspection.by_points] == [2, 3]
    assert [row.k for row in inspection.by_neighbors] == [1, 5, 10, 20]
    assert [row.likely_right for row in inspection.by_neighbors[:3]] == [1, 1, 1]
    assert [row.references for row in inspection.by_references] == [3, 6, 12, 24]


def test_neighbors_of_the_other_category_choose_the_wrong_point():
    inspection = inspect_atlas(bank(separate=False), k=1)
    assert inspection.spearman == pytest.approx(-1)
    assert inspection.by_points[-1].likely_right == 0
    assert inspection.by_points[-1].loss == pytest.approx(0.9, abs=1e-2)  # the mean of 0.8 and 1


def test_a_small_bank_has_fewer_neighbors_and_a_bank_without_an_atlas_is_refused():
    few = bank(separate=True).take(np.arange(10, 14))
    assert inspect_atlas(few).k == 3
    with pytest.raises(R2T2Error, match="r2t2 bank atlas"):
        inspect_atlas(dataclasses.replace(few, atlas=None))


def test_sentences_and_tables_have_the_numbers_of_the_inspection():
    inspection = inspect_atlas(bank(separate=True), k=5)
    sentences = " ".join(atlas_sentences(inspection))
    assert "24 references at 3 routing points" in sentences
    assert "100.0 % of the references are likely right" in sentences
    assert "best single point for all references it is 50.0 %" in sentences
    (_, (header, rows)), *_ = atlas_tables(inspection)
    assert header == ("source", "rows", "best weights, %", "its loss there", "of others")
    assert rows[0] == ("color", "12", "red 100", "0.000", "1.000")
