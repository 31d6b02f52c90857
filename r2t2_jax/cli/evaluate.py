"""`r2t2 eval`: strategies on benchmarks, as a run that can be resumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2t2_jax.cli.output import print_json
from r2t2_jax.cli.parsing import NO_CLUSTER, Cluster, Sets, command_settings, log
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import plain_console

if TYPE_CHECKING:  # so that the parser starts fast
    from r2t2_jax.evaluation.job import Job
    from r2t2_jax.evaluation.planning import PlannedEvaluation
    from r2t2_jax.evaluation.question_sets import QuestionSet
    from r2t2_jax.runs.cluster import Workers
    from r2t2_jax.steering.files import Steering


@dataclass(frozen=True)
class Eval:
    """Evaluate a model on benchmarks, with and without re-routing, and print the accuracies.

    If it is interrupted, run the same command again to resume; the results are byte-identical. docs/eval.md has recipes
    for one device, for several devices and for several hosts.

    Example: r2t2 eval --model pocket:narrow --bank out/bank --data pocket --strategy base,ngd,atlas --out out/eval
    """

    model: str
    """The model: a directory that `r2t2 convert` made, a port such as pocket:narrow, or module:attribute."""
    data: Sets
    """Test sets: names of prepared sets (r2t2 datasets list), or .jsonl files. Also --tasks, --benchmark, --dataset."""
    out: Path
    """Folder of the run: settings, rows and summary. A folder with other settings is refused."""
    bank: Path | None = None
    """Bank directory. Default: the references registered with the model are collected."""
    strategy: str = "base,ngd"
    """Strategies (r2t2 strategies lists them). base, the model without re-routing, is always among them."""
    answer_steps: str = ""
    """Strategies whose answer is generated after every step too, for the flow of answers in the
    report (figure 5 of the paper)."""
    steer: Path | None = None
    """Steering file: experts to select, mask, boost or weigh. Adds the strategy steer, the model under its rules."""
    preset: str | None = None
    """Settings of the strategies: a name, or a file from r2t2 tune. Default: the model's own, else the paper's."""
    embedder: str = ""
    """Embedder of the questions; must be the bank's (minilm:DIR, hashed_words). Default: the model's own."""
    split: str | None = None
    """Split of the questions; gqa=val,train is val for gqa and train for all others. Default: each set's first, or
    `test` for sets that are generated."""
    images: str = ""
    """Image folder of the .jsonl files. Default: the folder of each file."""
    metric: str = ""
    """Metric of the answers, also by set: gqa=gqa,mme=mme_mova. Default: each set's (r2t2 datasets list)."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: str = ""
    """Longest answer in tokens, also by set: 64,mme=5. Default: the number of each set's published evaluation."""
    limit: int | None = None
    """Number of questions of each set, chosen by the seed. Default: all. Also --samples."""
    seed: int = 0
    """Seed of the choice of questions and of the random numbers of strategies."""
    allow_leakage: bool = False
    """Accept questions that are also references: by id and question, or by image and question under any id."""
    batch_size: Literal["auto"] | int = "auto"
    """Questions at a time; auto for as many as fit in memory. It is halved if memory runs out; no result changes."""
    vmap_size: Literal["auto"] | int = "auto"
    """Questions computed together on a device. auto: as many as fit in its memory; one at a time on a CPU."""
    mesh: str = ""
    """Device mesh, e.g. data=4,model=2: four copies of the weights, each sharded over two devices. Default: one copy
    per device. With --ray, the devices of each worker."""
    dry_run: bool = False
    """Print the plan and its cost, and compute nothing."""
    max_hours: float | None = None
    """Stop after this many hours; the same command continues."""
    json: bool = False
    """Print the numbers as JSON."""
    cluster: Cluster = NO_CLUSTER

    def run(self) -> None:
        """Compute what is missing, write the summary, print the tables."""
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out, "eval")  # before anything heavy is imported
        enable_compilation_cache()
        command = self._with_recorded_strategies()
        check_folder(self.out, "eval", command._settings_of_run())
        command._run()

    def _settings_of_run(self) -> dict[str, Any]:
        """The command's options; for a run in its folder that gets further strategies, with those that it has."""
        from r2t2_jax.runs.folder import RUN, read_json

        settings = command_settings(self)
        if (self.out / RUN).exists():
            from r2t2_jax.evaluation.job import recorded_strategies

            saved = read_json(self.out / RUN)
            if set(recorded_strategies(saved)) < set(recorded_strategies({"settings": settings})):
                settings["strategy"] = saved["settings"]["strategy"]
        return settings

    def _run(self) -> None:
        from r2t2_jax.evaluation.devices import local_model
        from r2t2_jax.runs.cluster import connect
        from r2t2_jax.runs.folder import SUMMARY, read_json

        config, model = self.cluster.config(), local_model(self.model, self.cluster.model_uri)
        if self.dry_run:
            if self.json:
                print_json(self._plan(model).record())
                return
            print_dry_run(self._plan(model))
            if config:
                print(config.describe())
            return
        with connect(config, log) as workers:
            self._compute(self._job(model, workers), workers)
        if self.json:
            print_json(read_json(self.out / SUMMARY))
        else:
            show(self.out)

    def _with_recorded_strategies(self) -> Eval:
        """The command with the strategies of the run in its folder: a complete run loses none, and may get others.

        The order is that of the run if the command leaves strategies out, else that of the command. A run that is being
        extended continues.
        """
        from r2t2_jax.runs.batch_files import EARLIER
        from r2t2_jax.runs.folder import RUN, SUMMARY, read_json

        if not (self.out / RUN).exists():
            return self

        from r2t2_jax.evaluation.job import recorded_strategies, strategy_names

        requested = strategy_names(listed("--strategy", self.strategy))
        saved = read_json(self.out / RUN)
        recorded = recorded_strategies(saved)
        omitted, added = [
            [name for name in a if name not in b] for a, b in ((recorded, requested), (requested, recorded))
        ]
        kept = (self.out / SUMMARY).exists() or (not added and (self.out / EARLIER).exists())
        if not recorded or (omitted and not kept) or (added and not omitted):
            return self
        if omitted:
            log(f"{self.out} holds a run of {', '.join(recorded)}; no row is removed")
        return replace(self, strategy=",".join([saved["settings"]["strategy"], *added]))

    def _benchmarks(self) -> dict[str, QuestionSet]:
        """The questions; what they show to be wrong with the strategies is refused before a model is loaded."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.evaluation.question_sets import read_benchmarks
        from r2t2_jax.methods import method_of
        from r2t2_jax.runtime.progress import phase
        from r2t2_jax.validation.strategies import check_strategies

        with phase("read the questions"):
            benchmarks = read_benchmarks(
                self.data, self.split, self.limit, self.seed, self.images, self.metric, self.max_new_tokens
            )
        bank = None if self.bank is None else ReferenceBank.open(self.bank)
        samples = [sample for questions in benchmarks.values() for sample in questions.samples]
        methods = {name: method_of(name) for name in listed("--strategy", self.strategy)}
        check_strategies(methods, samples, bank, model=self.model)
        return benchmarks

    def _steering(self) -> Steering | None:
        from r2t2_jax.steering.files import read_steering

        return None if self.steer is None else read_steering(self.steer)

    def _plan(self, model: str) -> PlannedEvaluation:
        """The evaluation for a dry run: without weights where the model can do without, and without an embedder."""
        from r2t2_jax.evaluation.planning import plan_evaluation
        from r2t2_jax.evaluation.setup import with_decoding, with_embedder
        from r2t2_jax.plugins import load

        steering, benchmarks = self._steering(), self._benchmarks()
        embedder = "" if self.bank is None else self.embedder  # it must be the bank's
        (loaded,) = with_embedder([load(model, weights=False)], embedder, self.preset)
        return plan_evaluation(
            with_decoding(loaded, self.beams),
            self.bank,
            benchmarks,
            listed("--strategy", self.strategy),
            self.preset,
            None if self.batch_size == "auto" else self.batch_size,
            None if self.vmap_size == "auto" else self.vmap_size,
            self.allow_leakage,
            self.out,
            steering,
        )

    def _job(self, model: str, workers: Workers | None) -> Job:
        from r2t2_jax.evaluation.devices import device_groups, load_on
        from r2t2_jax.evaluation.job import open_job
        from r2t2_jax.evaluation.setup import with_decoding, with_embedder

        steering, benchmarks = self._steering(), self._benchmarks()
        groups = device_groups("" if self.cluster.ray else self.mesh)
        loaded = with_embedder(load_on(model, groups), self.embedder, self.preset)
        ports = [with_decoding(port, self.beams) for port in loaded]
        batch = None if self.batch_size == "auto" else self.batch_size
        vmap_size = None if self.vmap_size == "auto" else self.vmap_size
        job = open_job(
            ports,
            groups,
            self.bank,
            benchmarks,
            listed("--strategy", self.strategy),
            self.preset,
            self.seed,
            batch,
            vmap_size,
            self.allow_leakage,
            workers,
            steering,
        )
        steps = listed("--answer-steps", self.answer_steps) if self.answer_steps else []
        return replace(job, answered_steps=steps)

    def _compute(self, job: Job, workers: Workers | None) -> None:
        """Compute and save what is missing, in this process or on workers, and write the summary."""
        from r2t2_jax.evaluation.encode import note_of_long_questions
        from r2t2_jax.evaluation.setup import ModelSource
        from r2t2_jax.runs.run import Run

        for questions in job.benchmarks.values():
            if note := note_of_long_questions(job.port, questions.samples):
                log(note)
        settings = command_settings(self)
        with Run.open(self.out, "eval", settings, job.plan, job.depends, self.max_hours, job.extends) as run:
            if run.complete:
                if not (self.out / "rows.parquet").exists():
                    run.export()
                return
            if workers is None:
                job.compute(run, log)
            else:
                source = ModelSource.of(workers, job.port, self.model, self.embedder, self.mesh)
                job.compute_on_workers(run, workers, source)
            run.export()
            run.finish(job.summary(run))


def listed(option: str, text: str) -> list[str]:
    """The names of a comma-separated option.

    Raises:
        R2T2Error: a name is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise R2T2Error(f"{option} {text!r} has an empty name; separate names by single commas")
    return names


def print_dry_run(planned: PlannedEvaluation) -> None:
    """Print the plan of an evaluation and its cost."""
    from r2t2_jax.reporting.costs import dry_run_table, memory_line, plan_lines
    from r2t2_jax.runtime.progress import phase

    console = plain_console()
    for line in plan_lines(planned):
        console.print(line, highlight=False, soft_wrap=True)
    if not planned.strategies:
        return
    with phase("predict cost and memory"):
        dry_run = planned.predict()
    console.print(memory_line(planned, dry_run), highlight=False, soft_wrap=True)
    console.print(dry_run_table(planned, dry_run))


def show(folder: Path) -> None:
    """Print a complete run's tables, and a warning where the untouched model answers hardly any question correctly."""
    from r2t2_jax.evaluation.benchmark import seconds_by_strategy
    from r2t2_jax.evaluation.records import SHOWN, hardly_any, low_score_warning
    from r2t2_jax.evaluation.statistics import models_of
    from r2t2_jax.reporting.tables import strategy_table
    from r2t2_jax.runs.reading import open_run

    console, saved = plain_console(), open_run(folder)
    for title, summary in models_of(saved.summary, folder).items():
        seconds = seconds_by_strategy(saved.seconds_per_sample, title, list(summary["strategies"]))
        console.print(strategy_table(f"{title}: {summary['n']:,} questions", summary, seconds))
        n, correct = summary["n"], round(summary["strategies"]["base"]["accuracy"] * summary["n"])
        if hardly_any(correct, n):
            rows = saved.rows.select(("model", "strategy", "prediction", "answers", "right")).to_pylist()
            base = (row for row in rows if (row["model"], row["strategy"], row["right"]) == (title, "base", False))
            wrong = [(row["prediction"], (row["answers"] or [""])[0]) for row in islice(base, SHOWN)]
            log(low_score_warning(title, summary["metric"], correct, n, wrong))
    console.print(f"Wrote run.json, summary.json and rows.parquet to {folder}.", soft_wrap=True)
    console.print(f"HTML report: r2t2 report {folder}. Tables: r2t2 results {folder}.", soft_wrap=True)
