"""`r2t2 routes`: records, shows and exchanges the router's choices. `r2t2 experts`: maps and compares experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from r2t2_jax.cli.output import print_json, print_result
from r2t2_jax.cli.parsing import Sets, command_settings, log

if TYPE_CHECKING:
    from r2t2_jax.contract import Sample


@dataclass(frozen=True)
class RoutesRecord:
    """Record the experts that a model chooses and their weights, at each token and layer, while it answers questions.

    After an interruption the same command resumes the work. Answers are those of r2t2 eval --strategy base. A model
    that routes whole samples gives one record per sample. docs/routes.md describes the files.

    Example: r2t2 routes record --model pocket:sparse --data pocket --limit 100 --out out/routes
    """

    model: str
    """Model: a directory written by r2t2 convert, a port such as pocket:narrow, or module:attribute."""
    data: Sets
    """Question sets: names of prepared sets (r2t2 datasets list), or .jsonl files. Also --tasks, --benchmark,
    --dataset."""
    out: Path
    """Folder for the recording."""
    tokens: Literal["last", "prompt", "answer", "all"] = "all"
    """Recorded tokens: the last one of the prompt, the prompt, the answer, or all."""
    logits: bool = False
    """Also record the gates' logits of all experts."""
    split: str | None = None
    """Split of the questions, also by set. Default: the first of each set, or the test split of a generated set."""
    images: str = ""
    """Image folder of the .jsonl files. Default: the folder of each file."""
    limit: int | None = None
    """Number of questions of each set, chosen by the seed. Default: all. Also --samples."""
    max_new_tokens: str = ""
    """Longest answer in tokens, also by set. Default: the number of the published evaluation of a set."""
    seed: int = 0
    """Seed of the choice of the questions."""
    batch_size: int = 50
    """Questions per batch."""
    max_hours: float | None = None
    """Stop after this many hours; the same command resumes the work."""
    steer: Path | None = None
    """Steering file, under which the model routes and answers."""
    json: bool = False
    """Print the facts of the recording as JSON."""

    def run(self) -> None:
        """Record, and print the counts and sizes."""
        from r2t2_jax.evaluation.question_sets import read_benchmarks
        from r2t2_jax.evaluation.setup import open_port
        from r2t2_jax.reporting.formatting import plural
        from r2t2_jax.routes.record import record
        from r2t2_jax.routes.recording import size_on_disk
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache
        from r2t2_jax.steering.files import read_steering

        check_folder(self.out, "routes record", command_settings(self))
        steering = None if self.steer is None else read_steering(self.steer)
        sets = read_benchmarks(self.data, self.split, self.limit, self.seed, self.images, "", self.max_new_tokens)
        enable_compilation_cache()
        port = open_port(self.model)
        facts = record(
            self.out,
            port,
            sets,
            self.tokens,
            self.logits,
            self.batch_size,
            command_settings(self),
            self.max_hours,
            steering,
        )
        if "sample" in facts.kinds:
            log(f"{port.name} routes whole samples: there is one record per sample, and --tokens selects nothing")
        if self.json:
            print_json({"folder": self.out, **vars(facts)})
            return
        counts = ", ".join(f"{count:,} {kind}" for kind, count in facts.kinds.items())
        total = sum(facts.kinds.values())
        numbers = f"{plural(facts.samples, 'sample')}, {plural(total, 'record')} ({counts})"
        print(f"{numbers} of {len(facts.layers)} layers x {facts.top_k}")
        print(
            f"{facts.bytes_per_token:,} bytes per record, {total * facts.bytes_per_token / 1e6:,.2f} MB; "
            f"{size_on_disk(self.out) / 1e6:,.2f} MB on disk in {self.out}"
        )


@dataclass(frozen=True)
class RoutesShow:
    """Print the recorded experts and weights of one sample, token by token and layer by layer.

    Example: r2t2 routes show out/routes
    """

    folder: tyro.conf.Positional[Path]
    """Folder of a recording."""
    sample: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SAMPLE")] = None
    """Id of the sample. Default: the first."""
    rows: int = 20
    """Number of tokens to print, the last ones."""
    json: bool = False
    """Print the sample as JSON, all its tokens."""

    def run(self) -> None:
        """Print the sample."""
        from r2t2_jax.routes.recording import Recording
        from r2t2_jax.routes.show import routes_lines, routes_record

        recording = Recording.open(self.folder)
        if self.json:
            print_json(routes_record(recording.sample(self.sample), recording.facts))
            return
        print("\n".join(routes_lines(recording.sample(self.sample), recording.facts, self.rows)))


@dataclass(frozen=True)
class RoutesImport:
    """Read expert ids that another tool recorded, as a recording of ids, or of ids and weights with --model.

    Formats: responses of vLLM or SGLang, or of the verifiers client, one JSON object per line, and MaxText's arrays in
    an .npz archive. No format holds combine weights. With --model the model runs each sequence with these experts and
    its gates weigh them; the agreement is the share of the experts that the gates would choose too. docs/routes.md
    describes the formats.

    Example: r2t2 routes import --format vllm responses.jsonl --out out/routes
    """

    file: tyro.conf.Positional[Path]
    """The file."""
    format: Literal["vllm", "sglang", "maxtext", "verifiers"]
    """The tool whose format the file has."""
    out: Path
    """Folder for the recording."""
    layers: int | None = None
    """Number of layers in the flat arrays of sglang. Default: that of --model."""
    top_k: int | None = None
    """Number of experts per token in the flat arrays of sglang. Default: that of --model."""
    model: str | None = None
    """The model that the file is of: its gates weigh the experts. Default: ids only."""
    data: Sets = ()
    """Question sets with the categories of the responses and the images of their prompts, by id. Also --tasks,
    --benchmark, --dataset."""
    split: str | None = None
    """Split of the questions, also by set. Default: as for r2t2 routes record."""
    images: str = ""
    """Image folder of .jsonl files. Default: the folder of each file."""
    limit: int | None = None
    """Number of questions of each set, chosen by the seed. Default: all. Also --samples."""
    seed: int = 0
    """Seed of the choice of the questions."""
    json: bool = False
    """Print the facts of the recording as JSON."""

    def run(self) -> None:
        """Import, and print the counts and the agreement."""
        from r2t2_jax.evaluation.setup import open_port
        from r2t2_jax.reporting.formatting import plural
        from r2t2_jax.routes.exchange import import_routes
        from r2t2_jax.routes.replay import Replay
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out, "routes import")
        questions = self._questions()
        enable_compilation_cache()
        replay = None if self.model is None else Replay(open_port(self.model), questions)
        if replay is not None:
            _ = replay.shape  # refuses a model that takes no ids before the file is read
        settings = {name: getattr(self, name) for name in ("model", "data", "split", "images", "limit", "seed")}
        given = {name: value for name, value in settings.items() if value}
        facts = import_routes(self.file, self.format, self.out, self.layers, self.top_k, replay, questions, given).facts
        if self.json:
            print_json({"folder": self.out, **vars(facts)})
            return
        counts = f"{plural(facts.samples, 'sequence')}, {plural(sum(facts.kinds.values()), 'token')}"
        by = "" if facts.weights else " by the largest id"
        print(f"{counts} of {len(facts.layers)} layers x {facts.top_k}, {len(facts.experts)} experts{by}")
        if gaps := _missing_layers(facts.layers):
            print(f"Left out, since all ids are 0 as of a layer without a gate: {gaps}.")
        if facts.agreement is None:
            print(f"Expert ids only: {self.format} holds no combine weights. Wrote {self.out}.")
            return
        share, least = sum(facts.agreement) / len(facts.agreement), min(facts.agreement)
        layer = facts.layers[facts.agreement.index(least)]
        print(
            f"Agreement: {self.model}'s own gates choose {100 * share:.1f} % of these experts "
            f"(least in {layer}: {100 * least:.1f} %). Wrote ids and recomputed weights to {self.out}."
        )

    def _questions(self) -> dict[str, Sample]:
        """The questions of the responses, by id.

        Raises:
            R2T2Error: an option chooses questions and there is no set, or a set cannot be read.
        """
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.evaluation.question_sets import read_benchmarks

        chosen = {"split": self.split, "images": self.images, "limit": self.limit}
        if not self.data:
            if given := [name for name, value in chosen.items() if value]:
                raise R2T2Error(f"--{given[0]} chooses questions of --data: give --data too")
            return {}
        sets = read_benchmarks(self.data, self.split, self.limit, self.seed, self.images, "")
        return {sample.id: sample for questions in sets.values() for sample in questions.samples}


def _missing_layers(names: Sequence[str]) -> str:
    """The layers below the last one that an import left out, as text; empty if it left out none."""
    last = names[-1].removeprefix("layer ")
    below = range(int(last)) if last.isdecimal() else ()
    return ", ".join(name for number in below if (name := f"layer {number}") not in names)


@dataclass(frozen=True)
class RoutesExport:
    """Write a recording's expert ids in the format of another tool. Weights and logits are left out.

    Example: r2t2 routes export --format vllm out/routes --out responses.jsonl
    """

    folder: tyro.conf.Positional[Path]
    """Folder of a recording of all tokens."""
    format: Literal["vllm", "sglang", "maxtext", "verifiers"]
    """The tool."""
    out: Path
    """The file: .jsonl, for maxtext .npz."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Export, and print what the file holds."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.reporting.formatting import plural
        from r2t2_jax.routes.exchange import export_routes
        from r2t2_jax.routes.recording import Recording

        check_writable(self.out)
        recording = Recording.open(self.folder)
        count = export_routes(recording, self.format, self.out)
        omitted = "; combine weights have no place in this format" if recording.facts.weights else ""
        content = {"file": self.out, "format": self.format, "sequences": count}
        line = f"Wrote the expert ids of {plural(count, 'sequence')} to {self.out}{omitted}."
        print_result(self.json, content, line)


@dataclass(frozen=True)
class ExpertsMap:
    """Map the experts of a recording: usage, weight and co-activation by group, and which differences are not chance.

    Each group is compared with the mean of all, by a permutation test with Benjamini-Hochberg control of false
    discoveries. Writes a page of heat maps, and experts and pairs of experts as CSV and Parquet files. docs/routes.md
    explains the columns.

    Example: r2t2 experts map out/routes --by category,modality --out out/map
    """

    folder: tyro.conf.Positional[Path]
    """Folder of a recording."""
    out: Path
    """Folder for map.html, and for experts and pairs as .csv and .parquet."""
    by: Annotated[tuple[Literal["category", "modality", "source"], ...], tyro.conf.arg(metavar="FACTOR ...")] = ()
    """Factors: category and source of a sample, modality of a token. Default: those with two or more groups."""
    permutations: int = 1000
    """Permutations of the labels; the smallest p-value is 1 / (permutations + 1)."""
    rate: float = 0.05
    """Rate of false discoveries among the entries that count as different."""
    seed: int = 0
    """Seed of the permutations."""
    json: bool = False
    """Print the entries as JSON."""

    def run(self) -> None:
        """Map, write the tables, and print the largest differences."""
        from r2t2_jax.reporting.expert_page import map_page
        from r2t2_jax.routes.expert_map import map_experts
        from r2t2_jax.routes.recording import Recording
        from r2t2_jax.routes.show import MAP_PAGE, check_tables_folder, map_lines, write_map

        check_tables_folder(self.out, MAP_PAGE)
        recording = Recording.open(self.folder)
        by = tuple(dict.fromkeys(self.by))
        maps = map_experts(recording, recording.facts, by, self.permutations, self.rate, self.seed)
        title = f"Experts of {self.folder} by {', '.join(each.factor for each in maps)}"
        write_map(self.out, maps, map_page(title, maps, recording.facts, self.rate, self.permutations))
        if self.json:
            print_json({each.factor: {"entries": each.entries, "pairs": each.pairs} for each in maps})
            return
        for each in maps:
            print("\n".join(map_lines(each, self.permutations, self.rate)))
        print(f"Wrote experts and pairs as CSV and Parquet to {self.out}; open {self.out / MAP_PAGE} for heat maps.")


@dataclass(frozen=True)
class ExpertsCompare:
    """Compare the experts of two recordings, of two tasks or two checkpoints: which are used more, with intervals.

    Samples are paired if both recordings hold the same questions. Prints the share of choices that moved in each layer
    and the largest differences of the second recording from the first; with --out, writes a page of heat maps and all
    numbers as CSV and Parquet files. docs/routes.md explains the columns.

    Example: r2t2 experts compare out/routes out/routes-b --out out/compared
    """

    first: tyro.conf.Positional[Path]
    """Folder of a recording."""
    second: tyro.conf.Positional[Path]
    """Folder of another recording of the same layers."""
    by: Literal["all", "category", "modality"] = "all"
    """Compare all tokens together, or those of each category of samples or modality of tokens."""
    out: Path | None = None
    """Folder for compare.html, and for experts and layers as .csv and .parquet."""
    json: bool = False
    """Print the layers and the significant differences as JSON."""
    permutations: int = 1000
    """Permutations of the labels; the smallest p-value is 1 / (permutations + 1)."""
    rate: float = 0.05
    """Rate of false discoveries among the entries that count as different."""
    seed: int = 0
    """Seed of permutations and resamples."""

    def run(self) -> None:
        """Compare, print the result, and write the tables and the page."""
        from r2t2_jax.reporting.expert_page import comparison_page
        from r2t2_jax.routes.compare import compare_recordings
        from r2t2_jax.routes.recording import Recording
        from r2t2_jax.routes.show import (
            COMPARISON_PAGE,
            check_tables_folder,
            comparison_lines,
            comparison_record,
            write_comparison,
        )

        if self.out is not None:
            check_tables_folder(self.out, COMPARISON_PAGE)
        first, second = Recording.open(self.first), Recording.open(self.second)
        factor = None if self.by == "all" else self.by
        comparison = compare_recordings(first, second, factor, self.permutations, self.rate, self.seed)
        if self.out is not None:
            title = f"Experts of {self.second} compared with {self.first}"
            write_comparison(self.out, comparison, comparison_page(title, comparison, self.rate, self.permutations))
        if self.json:
            print_json(comparison_record(comparison, self.rate))
            return
        print("\n".join(comparison_lines(comparison, self.rate)))
        if self.out is not None:
            print(f"Wrote experts and layers as CSV and Parquet to {self.out}; open {self.out / COMPARISON_PAGE}.")
