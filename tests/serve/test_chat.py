"""The official client against a live server."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from benchmarks.serving_client import send
from r2t2_jax import answer
from r2t2_jax.contract import Turn
from r2t2_jax.inference import Prediction
from r2t2_jax.serve.replies import _numbers, rerouting_block
from r2t2_jax.serve.schemas import ApiError, Rerouting
from tests.serve.live import SAMPLE, TESTS, Live, TextOrImage, body, data_url, engine, messages


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=600) as client:
        yield client


def ask(client: openai.OpenAI, sample: Any = SAMPLE, model: str = "toy", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages(sample), **more)


def predicted(live: Live, sample: Any, **settings: Any) -> Prediction:
    engine = live.service.engine
    if "routing" not in settings and settings.get("strategy") != "base":
        settings |= {"bank": engine.bank, "preset": "toy"}
    prediction = answer(engine.port, sample.image, sample.question, **settings)
    assert isinstance(prediction, Prediction)
    return prediction


def test_the_models_are_the_port_and_its_strategies(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["toy", "toy@base", "toy@ngd"]
    assert client.models.retrieve("toy@ngd").id == "toy@ngd"
    described: Any = models[0].to_dict()["r2t2"]
    assert {"ngd", "base", "uniform", "random_neighbors"} <= set(described["strategies"])
    assert not {"oracle", "task_routing", "gate_finetuned", "atlas"} & set(described["strategies"])
    assert "toy" in described["presets"] and described["experts"] == ["left", "middle", "right"]


def test_answers_are_those_of_r2t2_answer_whichever_wait_together(client: openai.OpenAI, live: Live) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda sample: ask(client, sample), TESTS))
    changed, engine = 0, live.service.engine
    images, texts = [sample.image for sample in TESTS], [sample.question for sample in TESTS]
    predictions: Any = answer(engine.port, images, texts, bank=engine.bank, preset="toy")
    for reply, expected in zip(replies, predictions, strict=True):
        assert reply.choices[0].message.content == expected.after
        routing = reply.r2t2["routing"]
        np.testing.assert_allclose(routing["after"], expected.weights, atol=1e-6)
        np.testing.assert_allclose(routing["before"], expected.router_weights, atol=1e-6)
        neighbors = [(each["question"], each["answer"]) for each in reply.r2t2["neighbors"]]
        assert neighbors == [(each.question, each.answer) for each in expected.neighbors]
        weights = [each["weight"] for each in reply.r2t2["neighbors"]]
        np.testing.assert_allclose(weights, [each.share for each in expected.neighbors], atol=1e-6)
        assert reply.r2t2["evaluations"] == expected.evaluations
        changed += expected.before != expected.after
    assert changed


def test_the_result_of_a_question_is_the_same_to_the_bit_in_any_company(live: Live) -> None:
    engine = live.service.engine
    for strategy in ("base", "ngd"):
        choice = engine.choose(Rerouting(strategy=strategy))
        turns = [Turn("user", (sample.image, sample.question)) for sample in TESTS[:4]]
        questions = [engine.prepare(choice, [turn]) for turn in turns]
        together = engine.answer(questions)
        for question, in_company in zip(questions, together, strict=True):
            (by_itself,) = engine.answer([question])
            assert by_itself.prediction.after == in_company.prediction.after
            for name in ("weights", "path", "losses", "router_weights"):
                expected, actual = (getattr(each.prediction, name) for each in (by_itself, in_company))
                np.testing.assert_array_equal(expected, actual)


def test_the_reply_has_the_parts_that_were_requested(client: openai.OpenAI, live: Live) -> None:
    names = ["routing", "neighbors", "path", "routes", "before"]
    block = ask(client, extra_body={"r2t2": {"return": names}}).r2t2
    expected = predicted(live, SAMPLE)
    assert set(names) < set(block)
    assert block["before"] == expected.before
    np.testing.assert_allclose(block["path"]["weights"], expected.path, atol=1e-6)
    np.testing.assert_allclose(block["path"]["losses"], expected.losses, atol=1e-6)
    assert block["routes"]["kinds"] == ["sample"] and len(block["routes"]["experts"][0]) == 2
    assert {"queue", "host", "question", "ngd", "base"} <= set(block["seconds"])
    fewer = ask(client, extra_body={"r2t2": {"return": []}}).r2t2
    assert not set(names) & set(fewer) and fewer["strategy"] == "ngd" and fewer["preset"] == "toy"


def test_each_neighbor_has_its_own_weight(live: Live) -> None:
    engine = live.service.engine
    turn = Turn("user", (SAMPLE.image, SAMPLE.question))
    (answered,) = engine.answer([engine.prepare(engine.choose(Rerouting(strategy="ngd")), [turn])])
    neighbors = [replace(each, share=0.1 * i) for i, each in enumerate(answered.prediction.neighbors)]
    assert len(neighbors) > 1
    weighted = replace(answered, prediction=replace(answered.prediction, neighbors=neighbors))
    block = rerouting_block(weighted, ["neighbors"])
    assert [each["id"] for each in block["neighbors"]] == [each.id for each in neighbors]
    np.testing.assert_allclose([each["weight"] for each in block["neighbors"]], 0.1 * np.arange(len(neighbors)))


def test_a_strategy_a_preset_or_weights_are_chosen_by_request(client: openai.OpenAI, live: Live) -> None:
    router = predicted(live, SAMPLE).before
    assert ask(client, extra_body={"r2t2": {"strategy": "base"}}).choices[0].message.content == router
    assert ask(client, model="toy@base").choices[0].message.content == router
    assert ask(client, extra_body={"r2t2": {"preset": "paper"}}).r2t2["preset"] == "paper"
    row = [float(name == SAMPLE.experts[0]) for name in ("left", "middle", "right")]
    for routing in (row, [row, row]):
        reply = ask(client, extra_body={"r2t2": {"routing": routing}})
        assert reply.choices[0].message.content == SAMPLE.answers[0]
        assert reply.r2t2["strategy"] == "by hand" and reply.r2t2["routing"]["after"] == [row, row]


def test_experts_are_steered_by_request(client: openai.OpenAI, live: Live) -> None:
    number = ("left", "middle", "right").index(SAMPLE.experts[0])
    steering: dict[str, Any] = {"steering": 1, "rules": [{"boost": {str(number): 100.0}}]}
    reply = ask(client, extra_body={"r2t2": {"steer": steering, "return": ["routing", "before"]}})
    expected: Any = answer(live.service.engine.port, SAMPLE.image, SAMPLE.question, steering=steering)
    assert reply.choices[0].message.content == expected.after == SAMPLE.answers[0]
    assert reply.r2t2["strategy"] == "steer" and reply.r2t2["before"] == expected.before
    np.testing.assert_allclose(reply.r2t2["routing"]["after"], expected.weights, atol=1e-6)
    masked = {"steering": 1, "rules": [{"mask": [number]}]}
    other = ask(client, extra_body={"r2t2": {"steer": masked}})
    assert np.array(other.r2t2["routing"]["after"])[:, number].max() == 0


def test_the_routes_are_those_of_the_routing_of_the_reply(client: openai.OpenAI) -> None:
    choices: list[dict[str, Any]] = [
        {"strategy": "ngd"},
        {"strategy": "base"},
        {"routing": [0.1, 0.7, 0.2]},
        {"steer": {"steering": 1, "rules": [{"boost": [1], "lambda": 3.0}]}},
    ]
    for choice in choices:
        reply = ask(client, extra_body={"r2t2": {**choice, "return": ["routing", "routes"]}})
        (experts,), (weights,) = reply.r2t2["routes"]["experts"], reply.r2t2["routes"]["weights"]
        after = np.array(reply.r2t2["routing"]["after"])  # [L, E]
        np.testing.assert_allclose(np.take_along_axis(after, np.array(experts), axis=-1), weights, atol=1e-3)
        assert reply.r2t2["routes"]["answer"] == reply.choices[0].message.content


@dataclass(frozen=True)
class Conversations(TextOrImage):
    """Reads the last turn of a conversation."""

    reads_conversations: ClassVar[bool] = True


def test_instructions_earlier_turns_and_images_reach_a_model_that_reads_conversations() -> None:
    own = engine()
    own.port = replace(own.port, processor=Conversations())
    turns = [Turn("system", ("Be brief.",)), Turn("user", (SAMPLE.image, "What is left?")), Turn("assistant", ("red",))]
    turns.append(Turn("user", (TESTS[1].image, "What is right?")))
    for strategy in ("ngd", "base"):
        question = own.prepare(own.choose(Rerouting(strategy=strategy)), turns)
        (sample,) = question.prepared.samples
        assert sample.conversation == tuple(turns) and sample.question == "What is right?"
        assert sample.image is SAMPLE.image
        np.testing.assert_array_equal(question.prepared.embeddings, own.port.embedder.embed(["What is right?"]))
        assert not own.answer([question])[0].prediction.is_reference
    with pytest.raises(ApiError, match="neighbor_vote reads a single question"):
        own.prepare(own.choose(Rerouting(strategy="neighbor_vote")), turns)
    (alone,) = own.prepare(own.choose(Rerouting()), turns[1:2]).prepared.samples
    assert alone.conversation == () and alone.question == "What is left?"


def test_other_models_take_instructions_in_front_of_the_question_and_refuse_earlier_turns(live: Live) -> None:
    own = live.service.engine
    choice, question = own.choose(Rerouting()), Turn("user", ("What is left?",))
    (sample,) = own.prepare(choice, [Turn("system", ("Be brief.",)), question]).prepared.samples
    assert (sample.question, sample.conversation) == ("Be brief.\nWhat is left?", ())
    for earlier in ("assistant", "user"):
        with pytest.raises(ApiError, match="answers a question without earlier turns") as refused:
            own.prepare(choice, [Turn(earlier, ("Hi",)), question])
        assert (refused.value.status, refused.value.param) == (400, "messages")


def test_the_message_of_a_reply_is_read_as_an_earlier_turn(client: openai.OpenAI) -> None:
    question: Any = messages(SAMPLE)
    reply = client.chat.completions.create(model="toy@base", messages=question)
    with pytest.raises(openai.BadRequestError, match="without earlier turns"):
        client.chat.completions.create(model="toy@base", messages=[*question, reply.choices[0].message, *question])


def test_numbers_that_json_does_not_have_are_null() -> None:
    assert _numbers([[0.12345678, np.nan], [np.inf, 1]]) == [[0.123457, None], [None, 1.0]]


def test_a_text_is_answered_without_an_image(client: openai.OpenAI) -> None:
    for content in ("What is left?", [{"type": "text", "text": "What is left?"}]):
        reply = client.chat.completions.create(model="toy", messages=[{"role": "user", "content": content}])  # type: ignore[misc,list-item]
        assert reply.choices[0].message.content == "red"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None and reply.usage.prompt_tokens == 3 and reply.usage.completion_tokens == 1


def test_the_requests_of_vlmevalkit_are_answered(live: Live) -> None:
    """What `GPT4V` of VLMEvalKit (ms-vlmeval 0.0.20) sends, and with `n` what it sent before."""
    jpeg = io.BytesIO()
    Image.fromarray(SAMPLE.image).save(jpeg, "JPEG")
    picture = {"url": data_url(jpeg.getvalue(), "jpeg"), "detail": "high"}
    parts = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": SAMPLE.question}]
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-none"}
    pixels = np.asarray(Image.open(jpeg).convert("RGB"))
    with_image, without = (predicted(live, replace(SAMPLE, image=image)).after for image in (pixels, None))
    cases: list[tuple[Any, dict[str, int], str]] = [
        (parts, {}, with_image),
        (parts, {"n": 1}, with_image),
        (SAMPLE.question, {}, without),
        (parts[1:], {"n": 1}, without),
    ]
    for content, more, expected in cases:
        payload = {"model": "toy@ngd", "messages": [{"role": "user", "content": content}], **more}
        payload |= {"temperature": 0, "max_tokens": 2048}
        url = f"{live.url}/v1/chat/completions"
        reply = httpx.post(url, headers=headers, content=json.dumps(payload), timeout=600, trust_env=False)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"].strip() == expected


def test_the_client_of_the_benchmark_reads_every_reply(live: Live) -> None:
    bodies = [json.dumps(body(sample)).encode() for sample in TESTS[:3]]
    results = send(live.url, [*bodies, b"{}"], 10, 3)
    replies = sorted(results["replies"], key=lambda reply: reply["line"])
    assert [reply["line"] for reply in replies] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert [reply["status"] for reply in replies] == [200] * 8 + [400] * 2
    for reply in replies[:8]:
        assert reply["answer"] == predicted(live, TESTS[reply["line"]]).after
    assert results["seconds"] > 0 and results["cpu_seconds"] > 0


def test_a_stream_has_the_answer_the_block_and_the_usage(client: openai.OpenAI) -> None:
    whole = ask(client)
    events = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert events[-2].choices[0].finish_reason == "stop" and events[-2].r2t2["routing"] == whole.r2t2["routing"]
    assert events[-1].usage == whole.usage


def test_answers_are_cut_at_stop_texts_and_at_the_limit(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].message.content
    cut = ask(client, stop=[text[1:], "nothing"])
    assert cut.choices[0].message.content == text[:1] and cut.choices[0].finish_reason == "stop"
    assert ask(client, stop=text).choices[0].message.content == ""
    assert ask(client, max_tokens=1).choices[0].message.content == text
    assert ask(client, max_completion_tokens=4096).choices[0].message.content == text


def test_logprobs_are_those_of_the_answer(client: openai.OpenAI) -> None:
    reply = ask(client, logprobs=True, top_logprobs=3, extra_body={"r2t2": {"strategy": "uniform"}})
    (token,) = reply.choices[0].logprobs.content
    assert token.token == reply.choices[0].message.content
    assert [each.logprob for each in token.top_logprobs] == sorted(
        (e.logprob for e in token.top_logprobs), reverse=True
    )
    assert token.logprob == token.top_logprobs[0].logprob <= 0
    assert sum(np.exp(each.logprob) for each in token.top_logprobs) <= 1 + 1e-6


def test_sampling_depends_on_the_seed_and_zero_is_greedy(client: openai.OpenAI) -> None:
    block = {"r2t2": {"strategy": "uniform", "return": []}}

    def drawn(seed: int, temperature: float = 2.0) -> str:
        return ask(client, temperature=temperature, seed=seed, extra_body=block).choices[0].message.content

    texts = [drawn(seed) for seed in range(6)]
    assert texts == [drawn(seed) for seed in range(6)] and len(set(texts)) > 1
    assert {drawn(seed, 0.0) for seed in range(3)} == {ask(client, extra_body=block).choices[0].message.content}


def test_errors_name_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="gpt")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"n": 2}, "n"),
        ({"extra_body": {"r2t2": {"strategy": "magic"}}}, "r2t2.strategy"),
        ({"extra_body": {"r2t2": {"preset": "preset.json"}}}, "r2t2.preset"),
        ({"extra_body": {"r2t2": {"steer": {"rules": [{"boost": [1]}]}}}}, "r2t2.steer"),
        ({"extra_body": {"r2t2": {"strategy": "neighbor_vote"}}, "temperature": 1.0}, "temperature"),
    ]
    for settings, field in cases:
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, **settings)
        assert refused.value.param == field and refused.value.type == "invalid_request_error"


def test_baselines_that_return_a_text_are_served(client: openai.OpenAI) -> None:
    reply = ask(client, extra_body={"r2t2": {"strategy": "neighbor_vote"}})
    assert reply.choices[0].message.content and reply.usage.completion_tokens == 1


def test_health_readiness_and_metrics_are_served(live: Live) -> None:
    assert httpx.get(f"{live.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{live.url}/ready").json() == {"status": "ready"}
    assert httpx.post(f"{live.url}/v1/chat/completions", json=body(), timeout=600).status_code == 200
    lines = httpx.get(f"{live.url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['r2t2_requests_total{status="200"}']) >= 1
    assert float(values['r2t2_answers_total{strategy="ngd"}']) >= 1
    assert values["r2t2_ready"] == "1.0"
