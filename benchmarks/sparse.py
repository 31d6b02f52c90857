"""Does re-routing help a trained token-level mixture of experts? Writes docs/sparse.md from finished runs.

```
r2t2 bank build --model pocket:sparse --data pocket --features --out out/bank
r2t2 tune --model pocket:sparse --data pocket --bank out/bank ... --out out/tuned
python -m benchmarks.sparse --tuned out/tuned
r2t2 reproduce c3po_methods --model pocket:sparse --bank out/bank --out out/c3po_methods
python -m benchmarks.sparse --runs out/c3po_methods
```

The first call makes the settings that `r2t2 tune` chose those of the model (`presets.json`) and replaces the record
`benchmarks/results/sparse.json`; the second adds the tables of runs of `r2t2 reproduce`. Runs of other weights or
settings than the shipped ones are refused, except with `--seeds 1 DIR`: a run of the weights that training with
`--seed 1` gave. The tables go to docs/sparse.md, and a row to README.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.demo_results import write_readme
from benchmarks.pages import write_results
from benchmarks.tune_pocket import changed
from ports.pocket.sparse import WEIGHTS, read_sparse
from r2t2_jax.cli.reproduce import Reproduce
from r2t2_jax.cli.tune import Tune
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load
from r2t2_jax.reporting.formatting import percent_interval
from r2t2_jax.reporting.tables import markdown_table, settings_rows
from r2t2_jax.reproduction.export import read_table, rows_table
from r2t2_jax.reproduction.plan import presets_of
from r2t2_jax.runs.folder import read_json
from r2t2_jax.runs.reading import SavedRun, open_run

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "sparse.json", ROOT / "docs" / "sparse.md"
MODEL = "pocket:sparse"
BY_FAMILY = 300  # questions from which the page has tables by family


def command_of(run: SavedRun) -> str:
    """The command of a run, with the options that differ from their defaults; folders are in `out/`."""
    command = {"tune": Tune, "reproduce": Reproduce}[run.run["command"]]
    words = ["r2t2", run.run["command"]]
    for option in dataclasses.fields(command):
        value = run.settings.get(option.name)
        value = tuple(value) if isinstance(value, list) else value
        if value is None or value == option.default:
            continue
        if option.name == "table":
            words.append(str(value))
            continue
        values = value if isinstance(value, tuple) else (f"out/{Path(value).name}" if option.name == "bank" else value,)
        words += [f"--{option.name.replace('_', '-')}", *map(str, values)]
    return " ".join([*words, "--out", f"out/{run.folder.name}"])


def origin(run: SavedRun, machine: str) -> dict[str, str]:
    """Command, machine and date of a run."""
    return {"command": command_of(run), "machine": machine, "date": datetime.date.today().isoformat()}


TRAIN = "python -m ports.pocket.training.sparse --out ports/pocket/weights/sparse"  # the command of seed 0


def check_model(fingerprint: str, run: SavedRun) -> None:
    """Refuse a run of other weights than the shipped ones.

    Raises:
        R2T2Error: the weights differ.
    """
    shipped = f"{MODEL}@{read_sparse().fingerprint}"
    if not fingerprint.startswith(shipped):
        raise R2T2Error(f"{run.folder} is a run of {fingerprint}, not of {shipped}: run it again")


def tuning_of(folder: Path, machine: str) -> dict[str, Any]:
    """The settings that a run of `r2t2 tune` chose and its evidence; the settings are written to `presets.json`."""
    run, preset = open_run(folder), read_json(folder / "preset.json")
    check_model(preset["evidence"]["model"], run)
    shipped = json.dumps({"pocket": changed(preset)}, indent=1) + "\n"
    (WEIGHTS / "presets.json").write_text(shipped, encoding="utf-8")
    evidence = {key: preset["evidence"][key] for key in ("base", "uniform", "table")}
    return origin(run, machine) | {"settings": preset["settings"], **evidence}


def tables_of(folder: Path, machine: str, seed: int = 0) -> dict[str, Any]:
    """The tables of a finished run of `r2t2 reproduce`, of the shipped weights or those of another seed.

    Raises:
        R2T2Error: the run is not finished, or is of other weights or settings than the shipped ones.
    """
    run, port = open_run(folder), load(MODEL)
    own = {name: preset.to_mapping() for name, preset in presets_of(port).items()}
    for model in run.run["models"].values():
        if not seed:
            check_model(model["model"], run)
        if model["presets"] != json.loads(json.dumps(own)):
            raise R2T2Error(f"{run.folder} is a run with other settings than {WEIGHTS / 'presets.json'}: run it again")
    tables = [read_table(folder, name) for name in run.summary["tables"]]
    return origin(run, machine) | {"seed": seed, "tables": tables}


def source(part: Mapping[str, str]) -> str:
    """The line with command, machine and date."""
    return f"`{part['command']}`, {part['machine']}, {part['date']}."


def run_lines(run: Mapping[str, Any]) -> list[str]:
    """The tables of a run of `r2t2 reproduce` in Markdown, each with n."""
    lines = []
    for table in run["tables"]:
        for model, settings in table["models"].items():
            for part in settings.values():
                weights = f" with weights of seed {run['seed']}" if run["seed"] else ""
                lines += [f"{table['title']}, `{model}`{weights}, n = {part['n']:,} test questions:", ""]
                lines += [rows_table(part["rows"], part.get("columns", {})), ""]
                for more in part.get("tables", ()) if part["n"] >= BY_FAMILY else ():
                    lines += [f"{more['title']}:", "", markdown_table(more["head"], more["rows"], align_right=True), ""]
                lines += [line for note in part.get("notes", ()) for line in (note, "")]
    trained = [f"`{TRAIN} --seed {run['seed']}`, then", ""] if run["seed"] else []
    return [*lines, *trained, source(run), ""]


def tuning_lines(tuning: Mapping[str, Any]) -> list[str]:
    """The settings that were tried on validation questions, and the controls."""
    head, rows = settings_rows(tuning["table"])
    for name in ("base", "uniform"):
        measured = tuning[name]
        cells = [f"{measured['n']:,}", f"{100 * measured['accuracy']:.1f}", percent_interval(*measured["ci95"]), "1"]
        rows.append([name, *[""] * (len(head) - len(cells) - 1), *cells])
    return ["Settings of `ngd` on validation questions:", "", markdown_table(head, rows, align_right=True), "",
            source(tuning), ""]  # fmt: skip


def page(recorded: Mapping[str, Any]) -> str:
    """All tables with command, n, machine and date."""
    lines = [line for run in [*recorded["runs"], *recorded["seeds"]] for line in run_lines(run)]
    return "\n".join([*lines, *tuning_lines(recorded["tuning"])]).rstrip("\n") + "\n"


def main(
    tuned: Path | None = None,
    runs: tuple[Path, ...] = (),
    seeds: tuple[tuple[int, Path], ...] = (),
    machine: str = "2 CPU cores",
) -> None:
    """Record finished runs, and write the pages; `seeds` are seeds with a run of the weights that they gave."""
    if tuned is not None:
        recorded: dict[str, Any] = {
            "weights": read_sparse().fingerprint,
            "tuning": tuning_of(tuned, machine),
            "runs": [],
            "seeds": [],
        }
    else:
        recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    by_table = {run["tables"][0]["table"]: run for run in recorded["runs"]}
    for run in runs:
        tables = tables_of(run, machine)
        by_table[tables["tables"][0]["table"]] = tables
    by_seed = {run["seed"]: run for run in recorded["seeds"]}
    for seed, run in seeds:
        by_seed[seed] = tables_of(run, machine, seed)
    recorded |= {"runs": list(by_table.values()), "seeds": [by_seed[seed] for seed in sorted(by_seed)]}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page(recorded))
    write_readme()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
