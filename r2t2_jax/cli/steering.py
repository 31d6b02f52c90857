"""`r2t2 experts steer` and `r2t2 experts mask`: steering files from expert maps and recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from r2t2_jax.cli.output import print_result


@dataclass(frozen=True)
class ExpertsSteer:
    """Write a steering file that boosts the experts of a task: those it uses more than the other groups of a map.

    The domain-expert boost of Routing Distraction (arXiv 2604.08541). About 20 recorded questions of the task and as
    many others suffice. Give the file to --steer of r2t2 answer, eval and routes record. docs/routes.md describes it.

    Example: r2t2 experts steer --from out/map --task size --layers 1-2 --lambda 0.5 --out steer.json
    """

    map_folder: Path
    """Folder that r2t2 experts map wrote. Also --from."""
    task: str
    """Group of the map, such as a category of questions; FACTOR=GROUP if two factors have it."""
    out: Path
    """The steering file."""
    layers: str = "all"
    """Layers to steer, counted from 0 in the order of the map: all, last5, 6-42 or 43,45."""
    strength: float = 0.5
    """What the expert with the largest difference gets, in units. Also --lambda."""
    unit: Literal["std", "logit"] = "std"
    """Unit of the strength: standard deviations of a token's logits, or logits."""
    tokens: Literal["all", "prompt", "text", "image", "last", "answer"] = "all"
    """Tokens to steer."""
    rate: float | None = None
    """Leave out experts whose difference has a larger q-value."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the file, and print what it boosts."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.routes.expert_steering import boost_rules
        from r2t2_jax.steering.files import write_steering

        check_writable(self.out)
        rules = boost_rules(self.map_folder, self.task, self.layers, self.strength, self.unit, self.tokens, self.rate)
        about = f"experts of {self.task}, from {self.map_folder.name}: differences in usage, the largest as 1"
        write_steering(self.out, rules, about)
        count = sum(len(rule["boost"]) for rule in rules)
        print_result(
            self.json,
            {"file": self.out, "experts": count, "layers": len(rules), "strength": self.strength, "unit": self.unit},
            f"Boosts {count:,} experts in {len(rules):,} layers by up to {self.strength:g} {self.unit}.",
            f"Wrote {self.out}.",
        )


@dataclass(frozen=True)
class ExpertsMask:
    """Write a steering file that masks the experts of an unwanted behavior, from two contrasting recordings.

    Experts are ranked by the share of tokens that choose them in the first recording minus that in the second, as in
    SteerMoE (arXiv 2509.09660). Give the file to --steer of r2t2 answer, eval and routes record.

    Example: r2t2 experts mask out/wanted out/unwanted --count 4 --out mask.json
    """

    wanted: tyro.conf.Positional[Path]
    """Recording of questions on which the model behaves as wanted."""
    unwanted: tyro.conf.Positional[Path]
    """Recording of contrasting questions, with the same model."""
    out: Path
    """The steering file."""
    count: int = 10
    """Number of experts to mask, of all layers: those that the second recording uses most in comparison."""
    select: int = 0
    """Number of experts to select in any case: those that the first recording uses most in comparison."""
    layers: str = "all"
    """Layers to steer, counted from 0: all, last5, 6-42 or 43,45."""
    tokens: Literal["all", "prompt", "text", "image", "answer"] = "all"
    """Tokens to count and to steer."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the file, and print what it masks and selects."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.routes.expert_steering import mask_rules
        from r2t2_jax.routes.recording import Recording
        from r2t2_jax.steering.files import write_steering

        check_writable(self.out)
        if not self.count + self.select:
            raise R2T2Error("--count 0 and --select 0 steer no expert; give one of them a number")
        recordings = Recording.open(self.wanted), Recording.open(self.unwanted)
        rules, named = mask_rules(*recordings, self.count, self.select, self.layers, self.tokens)
        about = f"usage in {self.wanted.name} minus usage in {self.unwanted.name}"
        write_steering(self.out, rules, about)
        verbs = ["mask" if difference < 0 else "select" for _, _, difference in named]
        pairs = list(zip(verbs, named, strict=True))
        experts = [
            {"rule": verb, "layer": layer, "expert": expert, "usage_difference": difference}
            for verb, (layer, expert, difference) in pairs
        ]
        lines = [f"{verb} {layer}, {expert}: usage {difference:+.3f}" for verb, (layer, expert, difference) in pairs]
        print_result(self.json, {"file": self.out, "experts": experts}, *lines, f"Wrote {self.out}.")
