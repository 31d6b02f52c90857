"""A small run on disk for tests: one model or two, hostile texts, and a question set with images.

Axis letters: B samples, L routed layers, E experts, K neighbors, S steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from r2t2_jax.contract import Sample
from r2t2_jax.evaluation.benchmark import part_name, strategy_parts
from r2t2_jax.evaluation.records import BatchResult, reference_rows, result_rows
from r2t2_jax.evaluation.statistics import summarize, summary_content
from r2t2_jax.runs.plan import Plan
from r2t2_jax.runs.run import Run

HOSTILE = '</td><script>alert("1")</script> & "quoted" \'single\' <img src=http://evil.example/x.png>'
B, L, K, S, REFERENCES = 40, 2, 3, 4, 12
STRATEGIES = {"base": 1, "uniform": 1, "random_neighbors": 26, "kernel_regression": 2, "ngd": 26, "oracle": 10}
EXPERTS = ("seeing", "reading", "<counting>")
CATEGORIES = ("plain", "odd & <even>")


def make_samples() -> list[Sample]:
    image = np.zeros((6, 8, 3), np.uint8)
    return [
        Sample(
            id=f"sample-{i}",
            image=np.full_like(image, 5 * i),
            question=HOSTILE if i == 0 else f"What is number {i}?",
            answers=(f"answer {i}", "another"),
            category=CATEGORIES[i % 2],
        )
        for i in range(B)
    ]


def write_set(folder: Path, samples: list[Sample]) -> dict[str, object]:
    """Write the samples as a JSONL set; returns its entry in `run.json`."""
    lines = []
    for sample in samples:
        Image.fromarray(sample.image).save(folder / f"{sample.id}.png")
        line = {"id": sample.id, "image": f"{sample.id}.png", "question": sample.question, "answer": sample.answers[0]}
        lines.append(json.dumps(line | {"category": sample.category}))
    (folder / "set.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"name": str(folder / "set.jsonl"), "split": "", "n": None, "seed": 0}


def random_result(name: str, rng: np.random.Generator, samples: list[Sample], experts: int) -> BatchResult:
    """Random results; `ngd` also has answers after every step."""
    n, steps = len(samples), S if name in ("ngd", "random_neighbors", "oracle") else 0
    path = rng.dirichlet(np.ones(experts), (n, steps + 1, L)).astype(np.float32)  # [B, S + 1, L, E]
    has_neighbors = name not in ("base", "uniform", "oracle")
    accuracy = {"base": 0.4, "ngd": 0.8}.get(name, 0.5)
    step_right = (rng.random((n, steps + 1)) < accuracy) if name == "ngd" else np.zeros((n, 0), bool)
    right = step_right[:, -1] if name == "ngd" else rng.random(n) < accuracy
    return BatchResult(
        name=name,
        samples=samples,
        router_weights=path[:, 0],
        predictions=[sample.answers[0] if ok else HOSTILE for sample, ok in zip(samples, right, strict=True)],
        scores=right.astype(float),
        weights=path[:, -1],
        path=path,
        losses=rng.random((n, steps)).astype(np.float32),
        neighbors=rng.integers(0, REFERENCES, (n, K if has_neighbors else 0)),
        similarities=rng.uniform(0.2, 1, (n, K if has_neighbors else 0)).astype(np.float32),
        kernel_weights=rng.random((n, K if has_neighbors else 0)).astype(np.float32),
        used_fallback=np.zeros(n, bool),
        evaluations=STRATEGIES[name],
        seconds_per_sample=0.0,
        step_predictions=[["x"] * step_right.shape[1]] * n,
        step_scores=step_right.astype(float),
        own_losses=rng.random(step_right.shape).astype(np.float32),
    )


def make_run(
    folder: Path,
    models: tuple[str, ...] = ("toy:left", "toy:right"),
    strategies: tuple[str, ...] = tuple(STRATEGIES),
    experts: tuple[str, ...] = EXPERTS,
    images: bool = True,
) -> Path:
    """Write a complete run to `folder / "run"`."""
    rng, samples = np.random.default_rng(0), make_samples()
    data = {"tests": write_set(folder, samples)} if images else {}
    references = [
        {
            "id": f"reference-{i}",
            "question": f"Which is <{i}>?",
            "answer": f"the {i} & co",
            "category": CATEGORIES[i % 2],
            "experts": [],
        }
        for i in range(REFERENCES)
    ]
    plan = Plan([part for model in models for part in strategy_parts(model, strategies, REFERENCES, B)])
    model_entries = {model: {"experts": experts, "routing_shape": (L, len(experts))} for model in models}
    depends = {"data": data, "models": model_entries, "versions": {"python": "3"}}
    summaries = {}
    with Run.open(folder / "run", "demo", {"seed": 0, "samples": B}, plan, depends) as run:
        for model in models:
            results = {name: random_result(name, rng, samples, len(experts)) for name in strategies}
            for batch in run.todo([part_name(model, "references")]):
                run.append(batch, reference_rows(model, references, rng.random((REFERENCES, L, len(experts)))))
            for batch in run.todo([part_name(model, name) for name in strategies]):
                result = results[batch.part.removeprefix(f"{model}/")]
                run.append(batch, result_rows(result, model, references)[batch.start : batch.stop])
            right = {name: result.right for name, result in results.items()}
            evaluations = {name: STRATEGIES[name] for name in strategies}
            summaries[model] = summarize(right, evaluations, [sample.category for sample in samples])
        run.finish(summary_content(summaries))
    return folder / "run"
