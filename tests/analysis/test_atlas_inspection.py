"""What an inspection reads off an atlas, on a table worked out by hand."""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.analysis.atlas_inspection import inspect_atlas
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.atlas_points import LEVELS
from r2t2_jax.reporting.bank_report import atlas_sentences, atlas_tables

# Two kinds of question, twelve references each. Colours fare well at the first point, shapes at the second.
LOSSES = np.where(np.arange(24)[:, None] < 12, [0.0, 0.8, 0.6], [1.0, 0.2, 0.6])
POINTS = np.array([[[1, 0]], [[0, 1]], [[0.5, 0.5]]], np.float32)  # [G, L, E]


def bank(apart: bool) -> ReferenceBank:
    """Questions of a kind lie together, or (not `apart`) every reference has a twin of the other kind."""
    names = [f"r{i}" for i in range(24)]
    place = np.arange(24) % 12
    angles = (np.arange(24) >= 12) * 1.5 + place * 1e-3 if apart else place * 0.1
    return ReferenceBank(
        None,
        None,
        routing=np.full((24, 1, 2), 0.5, np.float32),
        embeddings=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        records=[{"id": name, "category": "color" if i < 12 else "shape"} for i, name in enumerate(names)],
        model_fingerprint="toy",
        atlas=Atlas(POINTS, np.rint(LOSSES * LEVELS).astype(np.uint8), None, "toy", ("red", "blue"), tuple(names)),
    )


def test_every_kind_names_the_point_it_likes():
    found = inspect_atlas(bank(apart=True), k=5)
    color, shape = found.sources
    assert (color.source, color.rows, color.point, color.weights) == ("color", 12, 0, (1.0, 0.0))
    assert (color.loss, color.loss_elsewhere) == pytest.approx((0.0, 1.0))
    assert (shape.source, shape.point) == ("shape", 1)
    assert (shape.loss, shape.loss_elsewhere) == pytest.approx((0.2, 0.8), abs=1e-2)


def test_neighbours_of_the_same_kind_choose_the_right_point_for_everybody():
    found = inspect_atlas(bank(apart=True), k=5)
    assert found.spearman == pytest.approx(1)
    assert (found.by_points[-1].likely_right, found.by_points[-1].loss) == (1.0, pytest.approx(0.1, abs=1e-2))
    # The best point for all is the second, of mean loss one half: there shapes alone are likely right.
    assert (found.fixed.likely_right, found.fixed.loss) == (0.5, pytest.approx(0.5, abs=1e-2))
    assert found.best.likely_right == 1
    assert [row.points for row in found.by_points] == [2, 3]
    assert [row.k for row in found.by_neighbors] == [1, 5, 10, 20]
    assert [row.likely_right for row in found.by_neighbors[:3]] == [1, 1, 1]
    assert [row.references for row in found.by_references] == [3, 6, 12, 24]


def test_twins_of_the_other_kind_choose_wrongly():
    found = inspect_atlas(bank(apart=False), k=1)
    assert found.spearman == pytest.approx(-1)
    assert found.by_points[-1].likely_right == 0
    assert found.by_points[-1].loss == pytest.approx(0.9, abs=1e-2)  # the mean of 0.8 and 1


def test_a_bank_of_few_has_fewer_neighbours_and_one_without_an_atlas_is_refused():
    few = bank(apart=True).take(np.arange(10, 14))
    assert inspect_atlas(few).k == 3
    with pytest.raises(R2T2Error, match="r2t2 bank atlas"):
        inspect_atlas(dataclasses.replace(few, atlas=None))


def test_sentences_and_tables_have_the_numbers_of_the_inspection():
    found = inspect_atlas(bank(apart=True), k=5)
    sentences = " ".join(atlas_sentences(found))
    assert "24 references at 3 routing points" in sentences
    assert "100.0 % of the references are likely right" in sentences
    assert "best single point for all references it is 50.0 %" in sentences
    (_, (header, rows)), *_ = atlas_tables(found)
    assert header == ("source", "rows", "best weights, %", "its loss there", "of others")
    assert rows[0] == ("color", "12", "red 100", "0.000", "1.000")
