"""`r2t2 tune`: chooses the settings of a strategy on validation questions."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2t2_jax.cli.output import print_json
from r2t2_jax.cli.parsing import CLUSTER, NO_CLUSTER, Cluster, Sets, log, recorded_sets
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import plain_console

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from r2t2_jax.contract import Port, Sample
    from r2t2_jax.evaluation.tuning_grid import Budget, HalvingRound
    from r2t2_jax.method.presets import Preset
    from r2t2_jax.runs.cluster import Workers
    from r2t2_jax.runs.run import Run

OPTIONS = {  # options of the command that list values, and the path of the setting
    "space": "space.kind",
    "optimizer": "descent.optimizer",
    "learning_rate": "descent.learning_rate",
    "k": "neighborhood.k",
    "kernel": "neighborhood.kernel",
    "atlas_k": "atlas.k",
    "atlas_loss": "atlas.loss",
    "atlas_temperature": "atlas.temperature",
    "atlas_proximal_weight": "atlas.proximal_weight",
}
FRAGILE = ("fragile.measure", "fragile.threshold")


@dataclass(frozen=True)
class Tune:
    """Choose the settings of neighborhood gradient descent or of the loss atlas on validation questions.

    For gradient descent it varies update space, optimizer, learning rate, number of neighbors and kernel; for the
    atlas kernel, number of neighbors, temperature and proximal weight. The questions are encoded once. Many settings
    are reduced by successive halving: all settings on few questions, the best third on twice as many, and so on. The
    chosen settings are written with their evidence to preset.json, which every command accepts as --preset. Test
    questions are refused. After an interruption the same command resumes the work.

    Example: r2t2 tune --model pocket:narrow --data pocket --limit 200 --out out/tune
    """

    model: str
    """Model: a port such as pocket:narrow, or your own as module:attribute."""
    data: Sets
    """Labeled questions: names of prepared sets, or .jsonl files. Also --tasks, --benchmark, --dataset."""
    out: Path
    """Folder for the run and its preset.json."""
    strategy: Literal["ngd", "atlas"] = "ngd"
    """Strategy to tune: neighborhood gradient descent, or the loss atlas of the bank."""
    bank: Path | None = None
    """Folder of the bank. Default: collect the references registered with the model."""
    embedder: str = ""
    """Embedder of the bank, such as minilm:DIR or hashed_words. Default: the model's own."""
    split: str | None = None
    """Split of the questions. Default: validation, or all lines of a .jsonl file."""
    limit: int | None = None
    """Number of questions of each set. Default: all. Also --samples."""
    budget: str | None = None
    """Number of settings, drawn at random, such as 40; or a time limit, such as 90m or 1.5h."""
    name: str | None = None
    """Name of the preset. Default: that of the model."""
    preset: str = "paper"
    """Preset with the settings that are not varied: a name, or a file written by r2t2 tune."""
    space: tuple[Literal["free", "simplex", "logit", "shift"], ...] = ("free", "simplex", "logit", "shift")
    """Update spaces to try."""
    optimizer: tuple[Literal["sgd", "adam"], ...] = ("sgd", "adam")
    """Optimizers to try."""
    learning_rate: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Initial learning rates to try; each decays to a thirtieth."""
    k: tuple[int, ...] = (5, 10, 20)
    """Numbers of neighbors to try."""
    kernel: tuple[Literal["gaussian", "matern", "polynomial", "linear"], ...] = ("gaussian", "matern", "linear")
    """Kernels to try."""
    atlas_k: tuple[int, ...] = (5, 10, 20, 50)
    """Numbers of neighbors to try with the atlas."""
    atlas_loss: tuple[Literal["bounded", "cross_entropy"], ...] = ("bounded",)
    """Losses of the atlas to try: 1 - p of an answer, or its cross-entropy in nats."""
    atlas_temperature: tuple[float, ...] | None = None
    """Temperatures of the soft minimum to try, in units of the loss. Default: four values for each loss."""
    atlas_proximal_weight: tuple[float, ...] | None = None
    """Proximal weights to try, in units of the loss. Default: three values for each loss."""
    fragile: Literal["none", "router", "answer"] = "none"
    """Leave samples unchanged whose router's entropy (0 to 1) or answer's entropy (in nats) is at most a threshold."""
    fragile_threshold: tuple[float, ...] = ()
    """Thresholds of --fragile to try."""
    metric: str | None = None
    """Metric that decides which answers are correct. Default: that of the set."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: int | None = None
    """Longest answer in tokens. Default: the number of the set's published evaluation."""
    seed: int = 0
    """Seed of the choice of questions and of the order of the settings."""
    allow_leakage: bool = False
    """Accept questions that are also references: by id and question, or by image and question under any id."""
    dry_run: bool = False
    """Print the plan, and compute nothing."""
    max_hours: float | None = None
    """Stop after this many hours; the same command resumes the work."""
    json: bool = False
    """Print the preset with its evidence as JSON."""
    cluster: Cluster = NO_CLUSTER

    def run(self) -> None:
        """Run the search, print the best settings and write the preset."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.evaluation.devices import local_model
        from r2t2_jax.evaluation.question_sets import with_longest_answer
        from r2t2_jax.evaluation.setup import open_port, open_question_sets, with_decoding
        from r2t2_jax.evaluation.tune import refuse_test
        from r2t2_jax.evaluation.tuning_grid import (
            VARIED,
            Budget,
            describe_plan,
            grid_presets,
            halving_rounds,
            sample_order,
        )
        from r2t2_jax.methods import find_preset, strategy
        from r2t2_jax.reporting.tables import preset_lines, settings_table
        from r2t2_jax.runs.cluster import connect
        from r2t2_jax.runs.folder import check_folder, read_json
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache
        from r2t2_jax.validation.strategies import check_strategies

        check_folder(self.out, "tune", self._settings())
        self._check_used(VARIED[self.strategy])
        self._fragile()
        bank = None if self.bank is None else ReferenceBank.open(self.bank)
        check_strategies({self.strategy: strategy(self.strategy)}, (), bank, model=self.model)
        budget, cluster = Budget.parse(self.budget), self.cluster.config()
        enable_compilation_cache()
        loaded = open_port(local_model(self.model, self.cluster.model_uri), self.embedder, self.preset)
        port = with_longest_answer(with_decoding(loaded, self.beams), self.data, self.max_new_tokens)
        check_strategies({self.strategy: strategy(self.strategy)}, (), bank, port, self.model)
        refuse_test(self.split, ())
        base = find_preset(self.preset, port.presets).with_settings(self._fragile())
        values = {path: getattr(self, option) for option, path in OPTIONS.items()}
        values |= {FRAGILE[1]: self.fragile_threshold}
        grid = grid_presets(base, {path: values[path] for path in self._varied()}, self.strategy)
        presets = sample_order(grid, budget, self.seed)
        samples, _ = open_question_sets(self.data, self.split, self.limit, self.seed, self.metric or "")
        refuse_test(self.split, samples)
        rounds = halving_rounds(len(presets), len(samples))
        console = plain_console()
        if not self.json:
            console.print(describe_plan(len(grid), len(presets), rounds, budget), highlight=False)
        if self.dry_run:
            nodes = cluster.describe() if cluster else None
            content = {"grid": len(grid), "settings": len(presets), "questions": len(samples), "rounds": rounds}
            if self.json:
                print_json({**content, "workers": nodes})
            elif nodes:
                print(nodes)
            return
        with connect(cluster, log) as workers, self._open(port, presets, rounds, samples, workers) as run:
            if not run.complete:
                self._search(run, port, presets, rounds, samples, budget, workers)
        preset = read_json(self.out / "preset.json")
        if self.json:
            print_json(preset)
            return
        console.print(settings_table(preset["evidence"]["table"]))
        for line in preset_lines(preset):
            console.print(line, highlight=False)
        console.print(
            f"Wrote {self.out / 'preset.json'}: use it as --preset {self.out / 'preset.json'}; r2t2 report {self.out} "
            "writes all settings as HTML",
            soft_wrap=True,
        )

    def _fragile(self) -> dict[str, Any]:
        """The settings of the restriction to fragile samples, with the first threshold; empty without one.

        Raises:
            R2T2Error: there are thresholds without a measure, or a measure without thresholds.
        """
        if (self.fragile == "none") != (not self.fragile_threshold):
            raise R2T2Error("--fragile router or answer and --fragile-threshold go together: give both or neither")
        if self.fragile == "none":
            return {}
        return dict(zip(FRAGILE, (self.fragile, self.fragile_threshold[0]), strict=True))

    def _varied(self) -> tuple[str, ...]:
        """The paths of the settings that vary."""
        from r2t2_jax.evaluation.tuning_grid import VARIED

        return (*VARIED[self.strategy], *(() if self.fragile == "none" else FRAGILE[1:]))

    def _check_used(self, varied: Collection[str]) -> None:
        """Refuse values of settings that the strategy does not read."""
        for field in fields(self):
            path = OPTIONS.get(field.name)
            if path is not None and path not in varied and getattr(self, field.name) != field.default:
                option = field.name.replace("_", "-")
                raise R2T2Error(f"--strategy {self.strategy} does not read --{option}: leave it out")

    def _settings(self) -> dict[str, Any]:
        excluded = ("out", "max_hours", "dry_run", "json", CLUSTER)
        options = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in excluded}
        # Left out, so that earlier runs continue.
        unset: dict[str, Any] = {"allow_leakage": False, "beams": 1, "max_new_tokens": None}
        unset |= {"fragile": "none", "fragile_threshold": ()}
        settings = {name: value for name, value in options.items() if name not in unset or value != unset[name]}
        return settings | {"data": recorded_sets(self.data), "bank": None if self.bank is None else str(self.bank)}

    def _open(
        self,
        port: Port,
        presets: Sequence[Preset],
        rounds: Sequence[HalvingRound],
        samples: Sequence[Sample],
        workers: Workers | None,
    ) -> Run:
        from r2t2_jax.evaluation.question_sets import samples_digest
        from r2t2_jax.evaluation.setup import references_digest
        from r2t2_jax.evaluation.tune import tuning_plan
        from r2t2_jax.runs.cluster import devices_of
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.run import Run

        depends = {
            "model": port.fingerprint,
            "embedder": port.embedder.fingerprint,
            "presets": [preset.to_mapping() for preset in presets],
            "questions": samples_digest(samples),
            "references": {"digest": references_digest(port, self.bank)},
            "versions": versions(devices_of(workers)),
        }
        return Run.open(self.out, "tune", self._settings(), tuning_plan([port.name], rounds), depends, self.max_hours)

    def _search(
        self,
        run: Run,
        port: Port,
        presets: Sequence[Preset],
        rounds: Sequence[HalvingRound],
        samples: Sequence[Sample],
        budget: Budget,
        workers: Workers | None,
    ) -> None:
        from r2t2_jax.evaluation.encode import encode_questions
        from r2t2_jax.evaluation.feature_cache import BankArrays
        from r2t2_jax.evaluation.setup import ModelSource, metrics_by_set, open_bank
        from r2t2_jax.evaluation.tune import Tuning, prepare_tuning, tuned_preset
        from r2t2_jax.metrics import get_metric
        from r2t2_jax.runs.atomic_io import publish_json
        from r2t2_jax.runs.cluster import devices_of
        from r2t2_jax.runs.fingerprint import versions
        from r2t2_jax.runs.workers import WorkerProgram, open_pool

        metric = get_metric(next(iter(metrics_by_set(self.data, self.metric or "").values())))
        metrics = dict.fromkeys(self.data, metric)
        bank = open_bank(port, self.bank, metrics, samples, self.strategy == "atlas", self.allow_leakage)
        with ExitStack() as stack:
            batch = pool = None
            if workers:
                arguments = {
                    "source": ModelSource.of(workers, port, self.model, self.embedder),
                    "bank": BankArrays.of(bank, workers.per_node),
                    "samples": samples,
                    "presets": presets,
                    "metric": metric,
                    "seed": self.seed,
                    "method": self.strategy,
                    "max_new_tokens": port.max_new_tokens,
                }
                program = WorkerProgram("r2t2_jax.evaluation.tune:open_worker", arguments)
                pool = stack.enter_context(open_pool(workers, program))
            else:
                questions = encode_questions(port, samples)
                batch = prepare_tuning(port, bank, questions, presets, metric, self.seed, self.strategy)
            tuning = Tuning(run, {port.name: batch}, rounds, budget.minutes, pool=pool)
            rankings = tuning.search()
        name = self.name or port.name.partition(":")[0]
        varied = self._varied()
        preset = tuned_preset(name, presets, varied, tuning, rankings, self.strategy)
        about = {"model": port.fingerprint, "embedder": port.embedder.fingerprint, "references": len(bank)}
        preset["evidence"] = {"command": "tune", **self._settings(), **about, **preset["evidence"]}
        preset["evidence"]["versions"] = versions(devices_of(workers))
        publish_json(self.out / "preset.json", preset)
        run.finish({key: preset[key] for key in ("name", "settings")} | {"table": preset["evidence"]["table"]})
