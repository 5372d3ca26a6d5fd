"""Requests reach an Export-Deploy server as it takes them, and its replies come out right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.identity import Answer, Request
from evalhpc.errors import EndpointError
from evalhpc.worker.dialect import NoAnswer
from evalhpc.worker.dialects import DIALECTS
from tests.export_deploy_fake import KNOWN, generated, logprob, serve

DIALECT = DIALECTS["export-deploy"]
CHAT = "/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def request(path: str = "/completions", **fields: Any) -> Request:
    """A harness's request; a prompt and a limit unless told otherwise."""
    content = {"messages": HELLO, "max_tokens": 5} if path == CHAT else {"prompt": "a b c"}
    body = {"model": "m", **content, **fields}
    return Request(b"k" * 20, "bench", "model", "POST", path, json.dumps(body).encode())


def sent(asked: Request) -> list[dict[str, Any]]:
    """The bodies that go over the wire."""
    return [json.loads(wire.body) for wire in DIALECT.adapt(asked)]


def answered(asked: Request) -> dict[str, Any]:
    """The joined answer of the fake, asked one request at a time."""
    answers = [serve([wire])[0] for wire in DIALECT.adapt(asked)]
    assert {answer.status for answer in answers} == {200}
    value: dict[str, Any] = json.loads(DIALECT.join(asked, answers).body)
    return value


def refused(asked: Request) -> str:
    """Why a request is not sent."""
    with pytest.raises(EndpointError) as caught:
        DIALECT.adapt(asked)
    assert caught.value.hint
    return caught.value.what


def test_paths_end_with_a_slash_and_lists_of_models_are_untouched() -> None:
    """The server redirects what lacks it; a GET has no such route."""
    assert DIALECT.adapt(request())[0].path == "/completions/"
    assert DIALECT.adapt(request(CHAT))[0].path == "/chat/completions/"
    models = Request(b"k" * 20, "bench", "model", "GET", "/models", b"")
    assert DIALECT.adapt(models) == (models,)
    answer = Answer(200, "application/json", b'{"data":[]}')
    assert DIALECT.join(models, [answer]) is answer


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0, "top_p": 0.9},
        {"temperature": 0.7, "top_k": 1},
        {"temperature": 0.7, "top_p": 0},
        {"temperature": 1, "do_sample": False},
    ],
)
def test_greedy_is_temperature_0_without_top_p(fields: dict[str, Any]) -> None:
    """With any top_p beside temperature 0 the server would sample, or fail."""
    (body,) = sent(request(**fields))
    assert body["temperature"] == 0
    assert "top_p" not in body


def test_no_temperature_is_1_and_not_the_servers_greedy() -> None:
    """The protocol's default is sent, as the server has another."""
    (body,) = sent(request())
    assert body["temperature"] == 1.0
    assert body["max_tokens"] == 16
    (body,) = sent(request(top_p=0.9, top_k=0, max_tokens=3))
    assert (body["top_p"], body["max_tokens"]) == (0.9, 3)
    assert "top_k" not in body


def test_max_completion_tokens_is_max_tokens() -> None:
    """The server ignores the new name, and would stop at a length of its own."""
    (body,) = sent(request(CHAT, max_tokens=None, max_completion_tokens=7))
    assert body["max_tokens"] == 7
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt": [1, 2, 3]}, "token ids"),
        ({"prompt": [[1, 2], [3]]}, "token ids"),
        ({"prompt": []}, "text as a prompt"),
        ({"prompt": ["a", 1]}, "text as a prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"logit_bias": {"5": 10}}, "logit_bias"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_p": 0.1}, "min_p"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"best_of": 3}, "best of"),
        ({"n": 2, "best_of": 3}, "best of"),
        ({"top_p": 0.9, "top_k": 40}, "top_k and top_p together"),
        ({"temperature": "hot"}, "number as `temperature`"),
        ({"max_tokens": 0, "echo": True, "logprobs": 1}, "at least 1 token"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "one limit"),
        ({"logprobs": 1, "stop": ["."]}, "stop"),
        ({"stop": [3]}, "texts as `stop`"),
    ],
)
def test_what_the_server_cannot_do_is_refused_by_name(fields: dict[str, Any], why: str) -> None:
    """A field that it would ignore ends the run early, with advice, rather than in a score."""
    assert why in refused(request(**fields))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"max_tokens": None}, "length of its own"),
        ({"logprobs": True}, "log-probabilities"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "one text each"),
        ({"messages": [{"role": "assistant", "content": None}]}, "one text each"),
    ],
)
def test_chats_that_it_cannot_serve_are_refused(fields: dict[str, Any], why: str) -> None:
    """Images, tool calls, log-probabilities and answers without a limit."""
    assert why in refused(request(CHAT, **fields))


def test_other_routes_and_bodies_are_refused() -> None:
    """A 404 for embeddings would be an answer otherwise."""
    other = Request(b"k" * 20, "bench", "model", "POST", "/embeddings", b"{}")
    assert "/embeddings" in refused(other)
    assert "JSON" in refused(Request(b"k" * 20, "bench", "model", "POST", "/completions", b"x"))


def test_token_ids_are_refused_with_the_setting_that_helps() -> None:
    """lm-eval sends token ids unless told otherwise."""
    with pytest.raises(EndpointError) as caught:
        DIALECT.adapt(request(prompt=[5, 6]))
    assert "tokenized_requests: false" in caught.value.hint


#: Requests as harnesses make them, with fields of every kind.
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.just([1, 2])),
        "n": st.integers(0, 3),
        "temperature": st.sampled_from([0, 0.0, 0.5, 1, None]),
        "top_p": st.sampled_from([0, 0.5, 1, None]),
        "top_k": st.sampled_from([0, 1, 40, -1]),
        "max_tokens": st.sampled_from([1, 16, None]),
        "max_completion_tokens": st.sampled_from([16, None]),
        "echo": st.booleans(),
        "logprobs": st.sampled_from([None, False, True, 0, 1, 5]),
        "stop": st.sampled_from([None, "x", ["x", "y"], []]),
        "seed": st.integers(),
        "stream": st.booleans(),
        "presence_penalty": st.sampled_from([0, 0.0, 1]),
        "logit_bias": st.sampled_from([{}, None, {"1": 2}]),
        "tools": st.sampled_from([[], None, [{}]]),
        "user": st.just("me"),
        "anything": st.sampled_from([None, 1]),
    },
)


@given(fields=FIELDS)
def test_what_is_sent_has_known_fields_of_one_configuration(fields: dict[str, Any]) -> None:
    """Whatever comes in: it is refused, or sent in fields that the server reads and takes."""
    asked = request(**fields)
    try:
        wires = DIALECT.adapt(asked)
    except EndpointError:
        return
    for wire in wires:
        body = json.loads(wire.body)
        assert body.keys() <= KNOWN
        assert isinstance(body["prompt"], str)
        assert body["temperature"] > 0 or "top_p" not in body
        assert body.get("echo") is not True or body["logprobs"] >= 1
        assert serve([wire])[0].status == 200
        assert wire.key == asked.key
    assert len({DIALECT.turn(wire) for wire in wires}) == 1


@given(prompts=st.lists(TEXTS, min_size=1, max_size=5), copies=st.integers(1, 3))
def test_split_and_joined_in_order(prompts: list[str], copies: int) -> None:
    """Choices bear the indices of an unsplit reply: all copies of a prompt, then the next."""
    asked = request(prompt=prompts, n=copies, temperature=0.5)
    wires = DIALECT.adapt(asked)
    assert len(wires) == len(prompts) * copies
    choices = answered(asked)["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(wires)))
    settings = json.loads(wires[0].body)
    expected = [generated(prompt, settings) for prompt in prompts for _ in range(copies)]
    assert [choice["text"] for choice in choices] == expected


def test_greedy_copies_are_asked_for_once() -> None:
    """The likeliest text is the same each time, so that copying it is exact."""
    asked = request(prompt=["a", "b"], n=3, temperature=0)
    assert len(DIALECT.adapt(asked)) == 2
    texts = [choice["text"] for choice in answered(asked)["choices"]]
    assert texts[:3] == [texts[0]] * 3
    assert texts[3:] == [texts[3]] * 3 != texts[:3]


def test_counts_of_words_are_no_usage() -> None:
    """No usage, and no finish_reason but where it is certain."""
    asked = request(max_tokens=500)
    answer = answered(asked)
    assert "usage" not in answer
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answered(request(max_tokens=3))["choices"][0]["finish_reason"] is None


def test_stop_words_are_sent_as_a_list_and_cut_off() -> None:
    """Versions that ignore `stop`, or that end with it, give the same text."""
    asked = request(prompt="abc", stop=">", max_tokens=99)
    assert sent(asked)[0]["stop"] == [">"]
    choice = answered(asked)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (" <cba", "stop")
    choice = answered(request(prompt="a>c", stop=[">"], echo=True))["choices"][0]
    assert choice["text"] == "a>c <c"


def test_echo_without_logprobs_gets_some_and_gives_none() -> None:
    """echo alone is an error 500 there."""
    assert sent(request(echo=True))[0]["logprobs"] == 1
    choice = answered(request(echo=True))["choices"][0]
    assert choice["text"].startswith("a b c")
    assert choice["logprobs"] is None
    zero = answered(request(logprobs=0))["choices"][0]["logprobs"]
    assert zero["top_logprobs"] is None
    assert len(zero["token_logprobs"]) == 1


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_echoed_logprobs_are_those_of_a_batch_of_one(lengths: list[int]) -> None:
    """Padding to the longest of a batch goes, and alternatives stand beside their token."""
    prompts = [" ".join(f"w{i}{j}" for j in range(n)) for i, n in enumerate(lengths)]
    asked = [request(prompt=p, echo=True, logprobs=1, max_tokens=1) for p in prompts]
    wires = [wire for each in asked for wire in DIALECT.adapt(each)]
    assert len({DIALECT.turn(wire) for wire in wires}) == 1
    for each, prompt, answer in zip(asked, prompts, serve(wires), strict=True):
        got = json.loads(DIALECT.join(each, [answer]).body)["choices"][0]["logprobs"]
        words = [*prompt.split()[1:], "generated"]
        assert got["token_logprobs"] == [None, *map(logprob, words)]
        assert got["top_logprobs"][0] is None
        assert [word in top for word, top in zip(words, got["top_logprobs"][1:], strict=True)]


def test_logprobs_of_generated_tokens_are_asked_for_alone() -> None:
    """Unequal lengths in a batch are an error there."""
    one, two = (DIALECT.adapt(request(logprobs=1, prompt=p))[0] for p in "ab")
    assert DIALECT.turn(one) == DIALECT.turn(two)[:8] + one.key
    one, two = (DIALECT.adapt(request(prompt=p))[0] for p in "ab")
    assert DIALECT.turn(one) == DIALECT.turn(two)


@pytest.mark.parametrize(
    ("logprobs", "why"),
    [
        ({"token_logprobs": [None, -1.0, 0.0], "top_logprobs": None}, "padding"),
        ({"token_logprobs": [None, -1.0], "top_logprobs": [{"a": -1}] * 3}, "for 4 tokens"),
        ({"token_logprobs": [None, -1.0, -2.0], "top_logprobs": [{"a": -1}]}, "for 2 tokens"),
        ({"token_logprobs": [], "top_logprobs": []}, "of the prompt"),
        ({"token_logprobs": [None, -1.0], "top_logprobs": [{"a": -9}]}, "do not belong"),
        ({"token_logprobs": [None, -1.0], "top_logprobs": [{"a": None}]}, "no numbers"),
        ({"token_logprobs": [None, -1.0], "top_logprobs": [{"a": "x"}]}, "no numbers"),
        (None, "padding"),
    ],
)
def test_logprobs_that_cannot_be_trusted_are_no_answer(logprobs: Any, why: str) -> None:
    """Neither a guess at the padding nor a shift by one reaches a score."""
    asked = request(echo=True, logprobs=1)
    choice = {"index": 0, "text": "a b c d", "logprobs": logprobs}
    body = json.dumps({"choices": [choice]}).encode()
    with pytest.raises(EndpointError, match=why):
        DIALECT.join(asked, [Answer(200, "application/json", body)])


def test_a_refusal_of_one_part_is_the_answer() -> None:
    """As an unsplit request would have been refused whole."""
    asked = request(prompt=["a", "b"])
    answers = serve([DIALECT.adapt(asked)[0]])
    refusal = Answer(422, "application/json", b'{"detail":"no"}')
    assert DIALECT.join(asked, [*answers, refusal]) is refusal


@pytest.mark.parametrize("path", ["/completions", CHAT])
def test_a_stream_is_made_from_the_whole_reply(path: str) -> None:
    """The server sends none; its text arrives in one event, then the end."""
    asked = request(path, stream=True, n=2)
    answers = [serve([wire])[0] for wire in DIALECT.adapt(asked)]
    answer = DIALECT.join(asked, answers)
    assert answer.content_type == "text/event-stream"
    lines = answer.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    texts = {0: "", 1: ""}
    for line in lines[:-2]:
        choice = json.loads(line.removeprefix("data: "))["choices"][0]
        texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content", "")
    assert texts[0] == texts[1] == generated("Hello" if path == CHAT else "a b c", sent(asked)[0])


@pytest.mark.parametrize("dialect", ["export-deploy", "export-deploy-hf"])
def test_a_stream_from_the_server_itself_is_no_answer(dialect: str) -> None:
    """It sends none: what comes as one is not its reply."""
    stream = Answer(200, "text/event-stream", b"data: {}\n\ndata: [DONE]\n\n")
    with pytest.raises(NoAnswer, match="a stream"):
        DIALECTS[dialect].join(request(temperature=0, stream=True), [stream])


def test_a_single_text_part_is_a_text() -> None:
    """Templates of base tokenizers render a text, not a list of parts."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert sent(request(CHAT, messages=messages))[0]["messages"][0]["content"] == "Hi"


HF = DIALECTS["export-deploy-hf"]


def test_the_transformers_server_is_not_asked_to_sample() -> None:
    """It would answer with the likeliest text at any temperature."""
    with pytest.raises(EndpointError, match="never samples"):
        HF.adapt(request(temperature=0.7))
    assert HF.adapt(request(temperature=0)) == DIALECT.adapt(request(temperature=0))


def test_an_error_that_comes_as_a_text_is_no_answer() -> None:
    """The transformers server says so with status 200."""
    asked = request(temperature=0)
    for choice in (
        {"text": "An error occurred: OOM"},
        {"message": {"content": "An error occurred: "}},
    ):
        reply = Answer(200, "application/json", json.dumps({"choices": [choice]}).encode())
        with pytest.raises(NoAnswer, match="An error occurred"):
            HF.join(asked, [reply])


def test_lists_without_a_place_for_the_first_token_get_one() -> None:
    """The transformers server echoes log-probabilities from the second token on, in both lists."""
    asked = request(echo=True, logprobs=1, temperature=0)
    logprobs = {"token_logprobs": [-1.0, -2.0], "top_logprobs": [{"b": -1.0}, {"x": -0.5}]}
    body = json.dumps({"choices": [{"text": "a b c", "logprobs": logprobs}]}).encode()
    joined = json.loads(HF.join(asked, [Answer(200, "application/json", body)]).body)
    assert joined["choices"][0]["logprobs"] == {
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"b": -1.0}, {"x": -0.5}],
    }
