"""What the ports say of their costs, in closed form, equals counts over their programs: every pass, every rung.

That the rungs of a ladder give the same gradient is tested beside each port, in `test_savings.py`.
"""

from functools import cache

import pytest

from ports.moai.port import shapes as moai
from ports.mova.port import shapes as mova
from ports.pocket.port import shapes as pocket
from tests.flops_checks import check_passes, check_rung

SIZES = {
    "pocket": (pocket, None),
    "moai-tiny": (moai, "tiny"),
    "mova-tiny": (mova, "tiny"),
    "moai-7b": (moai, "7b"),
    "mova-8b": (mova, "8b"),
}
FULL = ("moai-7b", "mova-8b")  # walking a program of that size takes a while


@cache
def shapes_of(name):
    shapes, size = SIZES[name]
    return shapes(size, None, None)


def rungs():
    """Every rung of every ladder; a full-size one has those of the tiny one, by number."""
    for name in SIZES:
        small = f"{name.partition('-')[0]}-tiny" if name in FULL else name
        for number, rung in enumerate(shapes_of(small).costs.ladder):
            marks = pytest.mark.slow if name in FULL else ()
            yield pytest.param(name, number, id=f"{name}-{rung.name}", marks=marks)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in FULL else ()) for name in SIZES])
def test_closed_forms_equal_the_programs(name):
    check_passes(shapes_of(name))


@pytest.mark.parametrize(("name", "number"), list(rungs()))
def test_a_rung_costs_what_it_says(name, number):
    found = shapes_of(name)
    check_rung(found, found.costs.ladder[number])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_a_full_ladder_has_the_rungs_of_the_tiny_one(name):
    tiny = f"{name.partition('-')[0]}-tiny"
    assert [rung.name for rung in shapes_of(name).costs.ladder] == [rung.name for rung in shapes_of(tiny).costs.ladder]
