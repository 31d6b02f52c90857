"""`r2t2 eval`: strategies on benchmarks, as a run that survives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:  # the parser alone must start fast
    from r2t2_jax.evaluation.devices import ReplicaGroup
    from r2t2_jax.evaluation.job import Job
    from r2t2_jax.runs.processes import ProcessGroup

NO_SETTINGS = ("out", "max_hours", "dry_run", "coordinator", "processes", "process")  # no result depends on them


@dataclass(frozen=True)
class Eval:
    """Ask a model the questions of benchmarks, with re-routing and without, and tabulate what came of it.

    Killed or stopped at any point, the same command goes on where it was, and the numbers in the end are the same to
    the last byte. docs/eval.md has recipes for one device, for many, and for many hosts.

    Example: r2t2 eval --model pocket:narrow --bank out/bank --benchmark pocket --strategy base,ngd,atlas --out out/eval
    """

    model: str
    """The model: a directory that `r2t2 convert` made, a port such as pocket:narrow, or module:attribute."""
    benchmark: str
    """Test sets, separated by commas: prepared ones by name (r2t2 datasets list), or .jsonl files."""
    out: Path
    """Folder of the run: settings, rows and summary. One with other settings is refused."""
    bank: Path | None = None
    """Bank directory. Without it the references registered with the model are collected."""
    strategy: str = "base,ngd"
    """How to re-route, separated by commas. base, the model as it is, is always among them."""
    preset: str | None = None
    """The strategies' numbers: a name, or a file that r2t2 tune wrote. Without it the model's own, else the paper's."""
    embedder: str = ""
    """What finds like questions: the bank's embedder (minilm:DIR, hashed_words). Without it the model's own."""
    split: str | None = None
    """Split of the questions. Without it each set's first, or the test set of one that is drawn."""
    images: str = ""
    """Image folder of the .jsonl files. Without it each file's own folder."""
    metric: str = ""
    """What counts as a right answer. Without it each set's official metric."""
    limit: int | None = None
    """How many questions of each set, chosen by the seed. Without it all."""
    seed: int = 0
    """Chooses the questions and draws whatever strategies draw."""
    batch_size: Literal["auto"] | int = "auto"
    """Questions at a time; auto for as many as fit into memory. Too many are halved, which changes no result."""
    vmap_size: Literal["auto"] | int = "auto"
    """Of these, how many a device computes together; auto for as many as fit into its own memory, and one by one on a
    CPU, where no answer then depends on its batch in a single bit."""
    mesh: str = ""
    """Devices of all processes: data=4,model=2 for four copies of the weights, each cut over two. Without it one a
    device."""
    coordinator: str = ""
    """Address HOST:PORT of the first of several processes, or auto where SLURM, GKE or a TPU pod tells it."""
    processes: int | None = None
    """How many processes share the run; with a coordinator's address."""
    process: int | None = None
    """Which of them this is, from 0; with a coordinator's address."""
    dry_run: bool = False
    """Say what would be done and what it would cost, and do nothing."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Run what is missing, write the summary, print the tables."""
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out)  # before anything heavy is loaded
        enable_compilation_cache()

        from r2t2_jax.evaluation.devices import device_groups, join_processes, shutdown_processes
        from r2t2_jax.runs.processes import ProcessGroup

        if self.dry_run:
            foretell(self._job(device_groups(self.mesh, self.processes or 1)))
            return
        share = join_processes(self.coordinator, self.processes, self.process)
        groups, team = device_groups(self.mesh, share.count), ProcessGroup(self.out, share)
        team.write_heartbeat()
        shutdown_processes(groups)
        with team:
            self._fill(self._job(groups), team)
        if share.index == 0:
            show(self.out)

    def _job(self, groups: Sequence[ReplicaGroup]) -> Job:
        from r2t2_jax.evaluation.devices import load_on
        from r2t2_jax.evaluation.job import open_job
        from r2t2_jax.evaluation.question_sets import read_benchmarks
        from r2t2_jax.evaluation.setup import with_embedder

        names = listed("--benchmark", self.benchmark)
        benchmarks = read_benchmarks(names, self.split, self.limit, self.seed, self.images, self.metric)
        ports = with_embedder(load_on(self.model, groups), self.embedder)
        batch = None if self.batch_size == "auto" else self.batch_size
        vmap_size = None if self.vmap_size == "auto" else self.vmap_size
        strategies = listed("--strategy", self.strategy)
        return open_job(ports, groups, self.bank, benchmarks, strategies, self.preset, self.seed, batch, vmap_size)

    def _fill(self, job: Job, team: ProcessGroup) -> None:
        """Compute this process's batches; the first process ends the run with everybody's rows."""
        from r2t2_jax.runs.run import Run, run_multiprocess

        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = {name: value for name, value in given.items() if name not in NO_SETTINGS}
        depends = {"processes": team.share.count, **job.depends}

        def open_run() -> Run:
            return Run.open(team.own_folder(), "eval", settings, job.plan, depends, self.max_hours, team)

        def finish(run: Run) -> None:
            run.export()
            run.finish(job.summary(run))

        run_multiprocess(team, open_run, lambda run: job.compute(run, say), finish)


def listed(option: str, text: str) -> list[str]:
    """The names between the commas.

    Raises:
        R2T2Error: there is none, or one is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise R2T2Error(f"{option} {text!r} has an empty name; separate names by single commas")
    return names


def say(line: str) -> None:
    """A line beside the progress bar, on standard error like it."""
    import sys

    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def foretell(job: Job) -> None:
    """Print what would be done and what it would cost."""
    from rich.console import Console

    from r2t2_jax.reporting.costs import cost_table, memory_line, plan_lines

    console = Console()
    for line in plan_lines(job):
        console.print(line, highlight=False, soft_wrap=True)
    found = job.forecast()
    console.print(memory_line(job, found), highlight=False, soft_wrap=True)
    console.print(cost_table(job, found))


def show(folder: Path) -> None:
    """Print a complete run's tables."""
    from rich.console import Console

    from r2t2_jax.evaluation.benchmark import seconds_per_sample
    from r2t2_jax.reporting.tables import strategy_table
    from r2t2_jax.runs.reading import open_run

    console, saved = Console(), open_run(folder)
    for title, summary in saved.summary["models"].items():
        seconds = seconds_per_sample(saved.seconds_per_sample, title, list(summary["strategies"]))
        console.print(strategy_table(f"{title}: {summary['n']:,} questions", summary, seconds))
    console.print(f"Wrote run.json, summary.json and rows.parquet to {folder}.", soft_wrap=True)
