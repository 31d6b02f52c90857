"""Harnesses over the chat API: OpenAI's models of lm-eval and lmms-eval, as typed, on local tasks of ten questions.

The commands are found on the PATH: a harness may be installed in an environment of its own.
"""

import base64
import io
import json
import os
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from PIL import Image

from benchmarks.serving import running
from r2t2_jax import answer
from r2t2_jax.datasets import load_dataset
from r2t2_jax.serve import Settings
from tests.serve.live import Live

pytestmark = pytest.mark.slow
TASK = """\
task: ten_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
VISUAL = """\
import base64, io
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(io.BytesIO(base64.b64decode(doc["image"]))).convert("RGB")]
"""


def write_task(folder: Path, rows: list[dict[str, str]], more: str) -> None:
    (folder / "questions.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "ten_questions.yaml").write_text(TASK.format(file=folder / "questions.json", more=more), encoding="utf-8")
    (folder / "utils.py").write_text(VISUAL, encoding="utf-8")


def samples_of(folder: Path, *command: str) -> list[dict[str, Any]]:
    """The samples that a harness logs, in the order of the questions."""
    options = ["--include_path", str(folder), "--tasks", "ten_questions", "--batch_size", "1", "--log_samples"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    subprocess.run([*command, *options, "--output_path", str(folder / "out")], check=True, env=environment, cwd=folder)
    (file,) = folder.glob("out/**/*samples*.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(lines, key=lambda line: int(line["doc_id"]))


@pytest.mark.skipif(which("lm_eval") is None, reason="lm-eval is not installed")
def test_lm_eval_gets_the_answers_of_r2t2_answer(live: Live, tmp_path: Path) -> None:
    questions = [f"What is {place}?" for place in ("left", "middle", "right", "left or right", "in the middle")] * 2
    rows = [{"question": question, "answer": "red"} for question in questions]
    write_task(tmp_path, rows, 'generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}')
    model = f"model=toy@ngd,base_url={live.url}/v1/chat/completions,num_concurrent=8"
    samples = samples_of(
        tmp_path, "lm_eval", "--model", "local-chat-completions", "--apply_chat_template", "--model_args", model
    )
    engine = live.service.engine
    expected: Any = [answer(engine.port, None, text, bank=engine.bank, preset="toy") for text in questions]
    assert [sample["resps"][0][0] for sample in samples] == [prediction.after for prediction in expected]


@pytest.mark.skipif(which("lmms-eval") is None, reason="lmms-eval is not installed")
def test_lmms_eval_gets_the_answers_of_r2t2_answer(tmp_path: Path) -> None:
    samples, rows = load_dataset("pocket", "test", 10, 0), []
    for sample in samples:
        out = io.BytesIO()
        Image.fromarray(sample.pixels()).save(out, "PNG")
        image = base64.b64encode(out.getvalue()).decode()
        rows.append({"image": image, "question": sample.question, "answer": sample.answers[0]})
    greedy = "generation_kwargs: {max_new_tokens: 16, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}"
    write_task(tmp_path, rows, f"doc_to_visual: !function utils.doc_to_visual\n{greedy}")
    with running(Settings("pocket:narrow", strategy="atlas", page=False)) as (service, url):
        model = f"model_version=pocket:narrow@atlas,base_url={url}/v1,num_concurrent=8,timeout=600"
        logged = samples_of(tmp_path, "lmms-eval", "--model", "openai", "--model_args", model)
        engine = service.engine
        images, questions = [sample.image for sample in samples], [sample.question for sample in samples]
        expected: Any = answer(engine.port, images, questions, strategy="atlas", bank=engine.bank)
    assert [line["filtered_resps"] for line in logged] == [prediction.after for prediction in expected]
