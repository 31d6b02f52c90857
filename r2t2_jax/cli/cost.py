"""`r2t2 convert`, `cost` and `fit`: model directories, what re-routing costs, and which sizes fit in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from r2t2_jax.cli.output import print_json, print_result
from r2t2_jax.reporting.formatting import plain_console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from r2t2_jax.contract import ModelShapes, Params
    from r2t2_jax.costs.ladder import CostTable


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch checkpoint into a model directory, which loads without PyTorch.

    Names and shapes are checked first, and all mismatches are listed. Weights keep their dtype and are streamed, so
    that memory does not grow with the model. The directory is written completely or not at all; after an interruption
    run the same command again.

    Example: r2t2 convert mova SRC DST
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Model to convert: mova, moai, qwen3_vl_moe, qwen3_5_moe, qwen3_moe, olmoe, or an embedder (minilm, stella,
    gte_qwen2, nv_embed). The weights of nv_embed are for non-commercial use only (CC-BY-NC-4.0)."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
    """Folder with config.json and safetensors or .bin weights; or a hub id (owner/name), with the extra `convert`."""
    destination: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Model directory to create."""
    quiet: bool = False
    """Hide the progress bar."""
    vocab: Path | None = None
    """A vocab.txt, used instead of that of SRC. MoVA needs that of its text encoder, bert-large-uncased."""
    tokenizer: Path | None = None
    """Folder with tokenizer files (tokenizer.json, tokenizer.model, ...), used instead of those of SRC."""
    strict: bool = False
    """Refuse fields of config.json that the port does not know, instead of warning of them and recording them in
    model.json."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Convert the checkpoint and print a summary."""
        from r2t2_jax.plugins import CONVERTERS, find

        model = find(CONVERTERS, self.model, "model to convert").convert(
            self.source,
            self.destination,
            progress=not self.quiet,
            strict=self.strict,
            tokenizer=self.tokenizer,
            vocabulary=self.vocab,
        )
        report = model["report"]
        print_result(
            self.json,
            {
                "folder": self.destination,
                "tensors": report["mapped"],
                "parameters": len(model["parameters"]),
                "dtype": model["dtype"],
                "ignored": report["ignored"],
            },
            f"Wrote {self.destination}: {report['mapped']} tensors became {len(model['parameters'])} parameters"
            f" ({', '.join(model['dtype'])}), {len(report['ignored'])} are known and not needed.",
        )


@dataclass(frozen=True)
class Cost:
    """Print the cost of every method per sample: evaluations, FLOPs, memory.

    No weights are needed and nothing is allocated: FLOPs are counted on the traced programs. Neighborhood gradient
    descent is shown variant by variant, from the literal one to the cheapest that gives the same gradient, and the
    atlas with the cost of building it. For MoAI with the paper's k and steps, Table 4 of the paper stands next to it.

    Example: r2t2 cost moai:7b
    """

    model: tyro.conf.Positional[str]
    """The model: pocket, moai:7b (float32) or moai:7b,dtype=bfloat16, mova:8b, a model directory, or module:attribute
    of your own."""
    k: int = 5
    """Number of neighbors."""
    steps: int = 10
    """Steps of gradient descent."""
    points: int = 16
    """Points of the loss atlas."""
    references: int = 5000
    """References over which the cost of building the atlas is spread."""
    embedding: int = 4096
    """Size of a question's embedding, which is stored with every reference."""
    question_tokens: int | None = None
    """Length of the question. Default: the model's usual one."""
    answer_tokens: int | None = None
    """Length of the answer. Default: the model's usual one."""
    markdown: bool = False
    """Print only the table, as Markdown."""
    out: Path | None = None
    """JSON file for the numbers, in FLOPs and bytes."""
    figure: Path | None = None
    """PNG file for a figure of the costs."""
    run_folder: Path | None = None
    """Complete run of this model: the figure then shows accuracy against cost."""
    json: bool = False
    """Print the numbers as JSON, in FLOPs and bytes."""

    def run(self) -> None:
        """Count and print; write the files that were requested."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.costs.ladder import CostSettings, cost_record, cost_table
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reporting.costs import method_markdown
        from r2t2_jax.runs.atomic_io import publish_json
        from r2t2_jax.runtime.progress import phase

        if self.run_folder and not self.figure:
            raise R2T2Error("--run-folder adds accuracies to the figure: name one with --figure")
        settings = CostSettings(self.k, self.steps, self.points, self.references, embedding=self.embedding)
        for path in filter(None, (self.out, self.figure)):
            check_writable(path)
        shapes = load_shapes(self.model, self.question_tokens, self.answer_tokens)
        accuracies = self._accuracies(shapes.name)
        with phase(f"count the operations of {shapes.name}"):
            table = cost_table(shapes, settings)
        if self.out:
            publish_json(self.out, cost_record(table))
        if self.figure:
            self._draw(table, accuracies)
        if self.json:
            print_json(cost_record(table))
        elif self.markdown:
            print(method_markdown(table))
        else:
            self._print(table, shapes.params)

    def _accuracies(self, model: str) -> dict[str, float] | None:
        """By strategy, from the run's summary; `None` without a run."""
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.results import read_results
        from r2t2_jax.runs.reading import open_run

        if self.run_folder is None:
            return None
        results = {result.name: result for result in read_results(open_run(self.run_folder))}
        if model not in results:
            raise R2T2Error(f"the run in {self.run_folder} is of {', '.join(results)}; {model} is not among them")
        return {name: row["accuracy"] for name, row in results[model].summary["strategies"].items()}

    def _draw(self, table: CostTable, accuracies: Mapping[str, float] | None) -> None:
        from r2t2_jax.reporting.figures.cost import cost_table_figure
        from r2t2_jax.reporting.style import draw_figure
        from r2t2_jax.runs.atomic_io import atomic_write

        assert self.figure is not None
        png = draw_figure(cost_table_figure(table, accuracies)).wide.png()
        atomic_write(self.figure, lambda draft: draft.write_bytes(png))

    def _print(self, table: CostTable, params: Params) -> None:
        from r2t2_jax.reporting.costs import cost_notes, dtype_line, is_papers, method_table, paper_lines, variant_lines

        console = plain_console()
        console.print(method_table(table))
        for title, lines in (
            ("", [dtype_line(params), *cost_notes(table)]),
            ("ngd:", variant_lines(table)),
            *((("the paper:", paper_lines()),) if is_papers(table) else ()),
        ):
            for line in filter(None, (title, *lines)):
                console.print(line, highlight=False)
        for path in filter(None, (self.out, self.figure)):
            console.print(f"Wrote {path}.", soft_wrap=True)


@dataclass(frozen=True)
class FitMemory:
    """Print the largest k and the largest batch that fit in memory. No weights are needed.

    Neighborhood gradient descent is compiled at the model's full shapes for this machine's device, without allocating
    anything. For half-precision models on a machine without an accelerator, and with --mesh, activations are read off
    the traced program instead, an upper estimate. The table shows what takes the memory of one device: parameters,
    features of neighbors and samples, activations (a ~ marks estimates between computed sizes). The bank's embeddings
    and the memory of encoding are not counted; leave a tenth for the allocator.

    Example: r2t2 fit --model qwen3_vl_moe:235b-a22b --memory 141GB --mesh model=8
    """

    model: str
    """The model: pocket, moai, mova:8b, a model directory, or module:attribute of your own."""
    memory: str
    """Memory of the device: 24GB, 80GiB, 512MB."""
    preset: str = "paper"
    """Settings of the descent: a name, or a file from r2t2 tune."""
    question_tokens: int | None = None
    """Length of the question. Default: the model's usual one."""
    answer_tokens: int | None = None
    """Length of the answer. Default: the model's usual one."""
    mesh: str = ""
    """Devices that share one copy of the weights: model=8. Default: one device holds all of them."""
    out: Path | None = None
    """JSON file for the numbers, in bytes."""
    json: bool = False
    """Print the numbers as JSON, in bytes."""

    def run(self) -> None:
        """Compile and print what fits; write the file that was requested."""
        import jax

        from r2t2_jax.cli.parsing import check_writable, log
        from r2t2_jax.costs.memory import MemoryEstimator, format_size, largest_sizes, parse_size
        from r2t2_jax.costs.prediction import reads_shapes
        from r2t2_jax.methods import find_preset, strategy
        from r2t2_jax.plugins import load_shapes
        from r2t2_jax.reporting.costs import memory_record, memory_table, size_lines
        from r2t2_jax.runs.atomic_io import publish_json

        available, preset = parse_size(self.memory), find_preset(self.preset)
        if self.out:
            check_writable(self.out)
        shapes = self._on_mesh(load_shapes(self.model, self.question_tokens, self.answer_tokens))
        source = "from shapes" if reads_shapes(shapes.params) else f"compiled for {jax.default_backend()}"
        console = plain_console()
        with console.status("") as status:
            on_compile = status.update if console.is_terminal else log
            estimator = MemoryEstimator(shapes, strategy("ngd", preset), on_compile)
            sizes = largest_sizes(estimator, available, preset.neighborhood.k)
        record = {
            "model": shapes.name,
            "backend": jax.default_backend(),
            "jax": jax.__version__,
            "memory": available,
            "mesh": self.mesh,
            "activations": source,
            "preset": preset.to_mapping(),
            "largest_k": memory_record(sizes.neighbors),
            "largest_batch": memory_record(sizes.samples),
            "examples": [memory_record(memory) for memory in sizes.examples],
        }
        if self.out:
            publish_json(self.out, record)
        if self.json:
            print_json(record)
            return
        each = f" on each device of {self.mesh}" if self.mesh else ""
        title = f"{shapes.name} in {format_size(available)}{each}, {source}"
        console.print(memory_table(title, sizes))
        for line in size_lines(sizes):
            console.print(line, highlight=False)
        if self.out:
            console.print(f"Wrote {self.out}.", soft_wrap=True)

    def _on_mesh(self, shapes: ModelShapes) -> ModelShapes:
        """The shapes with the shardings of the mesh.

        Raises:
            R2T2Error: the mesh cannot be read, has another axis than `model`, or the model cannot be sharded.
        """
        import jax

        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.evaluation.devices import MODEL, mesh_axes

        if not self.mesh:
            return shapes
        axes = mesh_axes(self.mesh)
        if set(axes) != {MODEL}:
            raise R2T2Error(f"--mesh {self.mesh}: only model=N changes what a device holds; leave data=... out")
        if shapes.shardings is None:
            raise R2T2Error(f"the weights of {shapes.name} cannot be sharded over several devices; remove --mesh")
        mesh = jax.sharding.AbstractMesh((axes[MODEL],), (MODEL,))
        placed = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes.params,
            shapes.shardings(shapes.params, mesh),
        )
        return replace(shapes, params=placed)
