"""Every set of files the project reads, by name: the only list of them."""

from __future__ import annotations

from r2t2_jax.datasets.readers import (
    ai2d,
    aokvqa,
    clevr,
    cocoqa,
    cvbench,
    docvqa,
    easy_vqa,
    gqa,
    lines,
    mathvista,
    mmbench,
    mme,
    physbench,
    scienceqa,
    stvqa,
    textvqa,
    tqa,
    visual7w,
    vqav2,
)
from r2t2_jax.datasets.record import Source
from r2t2_jax.errors import R2T2Error

REFERENCE = (
    *(vqav2.SOURCE, visual7w.SOURCE, cocoqa.SOURCE, clevr.SOURCE, aokvqa.SOURCE, aokvqa.DIRECT),
    *(tqa.SOURCE, mathvista.SOURCE, stvqa.SOURCE, docvqa.SOURCE),
)
EVALUATION = (
    *(mmbench.SOURCE, mme.SOURCE, cvbench.SOURCE_2D, cvbench.SOURCE_3D, gqa.SOURCE),
    *(scienceqa.SOURCE, ai2d.SOURCE, textvqa.SOURCE, physbench.SOURCE),
)
SOURCES: dict[str, Source] = {
    source.name: source for source in (*REFERENCE, *EVALUATION, easy_vqa.SOURCE, lines.SOURCE)
}


def find_source(name: str) -> Source:
    """The set called `name`.

    Raises:
        R2T2Error: unknown name.
    """
    if name not in SOURCES:
        raise R2T2Error(f"unknown dataset {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]
