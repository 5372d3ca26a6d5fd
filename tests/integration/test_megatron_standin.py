"""The stand-in for Export-Deploy: real ranks of a real checkpoint, with the original's faults."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import byte_tokenizer
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from evalhpc import process
from evalhpc.core.identity import Answer, Request
from evalhpc.deploy.dialect_probe import refuse_export_deploy
from evalhpc.deploy.inspection import inspect_model
from evalhpc.deploy.readiness import wait_ready
from evalhpc.errors import EndpointError
from evalhpc.http.client import HttpClient
from evalhpc.worker.asking import Asker, RetryPolicy
from evalhpc.worker.dialects import DIALECTS
from tests.integration.megatron_rig import (
    STANDINS,
    deployed,
    interpreter,
    make_checkpoint,
    ray_node,
)
from tests.integration.model_servers import free_port

pytestmark = pytest.mark.server
PROMPT = "The river rises in the hills"
SCORE = {"max_tokens": 1, "echo": True, "logprobs": 1}


@dataclass(frozen=True)
class Served:
    """A server of two ranks, right after it called itself healthy."""

    client: httpx.Client
    silent_while_healthy: bool
    ray_address: str


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by one rank."""
    return make_checkpoint(tmp_path_factory.mktemp("megatron") / "toy")


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    logs = tmp_path_factory.mktemp("logs")
    flags = [
        "--num_gpus",
        "2",
        "--tensor_model_parallel_size",
        "2",
        "--batch_wait_timeout_s",
        "0.3",
    ]
    with (
        ray_node(logs / "ray.log", gpus=2) as env,
        deployed(checkpoint, logs / "deploy.log", env, *flags) as client,
    ):
        try:
            client.post("/v1/completions/", json={"prompt": "a", "max_tokens": 1}, timeout=0.5)
            silent = False
        except httpx.ReadTimeout:
            silent = True
        yield Served(client, silent, env["RAY_ADDRESS"])


def _complete(served: Served, **fields: Any) -> Any:
    reply = served.client.post("/v1/completions/", json=fields)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def _status(served: Served, **fields: Any) -> int:
    return served.client.post("/v1/completions/", json={"max_tokens": 2, **fields}).status_code


def _in_one_batch(served: Served, *bodies: dict[str, Any]) -> list[list[float]]:
    """Log-probabilities of requests that differ in length alone, and not in a batch."""
    for _ in range(20):  # a busy machine may keep them apart
        with ThreadPoolExecutor(len(bodies)) as pool:
            choices = pool.map(lambda body: _complete(served, **body), bodies)
            scores = [choice["logprobs"]["token_logprobs"] for choice in choices]
        if len({*map(len, scores)}) == 1:
            return scores
    raise AssertionError("they never met in a batch, or a batch keeps lengths apart")


def test_inspection_reads_what_megatron_wrote(checkpoint: Path) -> None:
    """Shape, parallelism and tokenizer of a checkpoint saved a moment ago are read right."""
    found = inspect_model(checkpoint)
    assert (found.format, found.layers, found.heads, found.kv_heads) == ("megatron-dist", 2, 8, 4)
    assert (found.tensor_parallel, found.context_length) == (1, 4096)
    assert (found.tokenizer, found.chat_template) == (str(checkpoint / "tokenizer"), True)


def test_an_endpoint_of_this_kind_is_not_asked_like_openai(served: Served) -> None:
    """Nobody had to say what it is: its redirects and its health route do."""
    with pytest.raises(EndpointError, match="Export-Deploy") as caught:
        refuse_export_deploy(str(served.client.base_url.join("/v1")), None)
    assert "dialect=export-deploy" in caught.value.hint


def test_healthy_before_the_weights_are_loaded(served: Served) -> None:
    """/v1/health says 200 while the model does not answer yet."""
    assert served.silent_while_healthy


def test_two_ranks_score_like_one(served: Served, checkpoint: Path) -> None:
    """Text and log-likelihoods of tp=2 are those of tp=1, whoever saved the weights."""
    argv = [interpreter(), STANDINS / "complete.py", checkpoint, PROMPT, "--port", free_port()]
    done = process.run([*map(str, argv), "--max-tokens", "8"], timeout=400)
    text, prompt, new = json.loads(done.stdout.splitlines()[-1])
    choice = _complete(served, prompt=PROMPT, max_tokens=8, echo=True, logprobs=1)
    assert choice["text"] == PROMPT + text
    first, *scores = choice["logprobs"]["token_logprobs"]
    assert first is None
    assert scores == pytest.approx([*prompt, *new], abs=1e-4)


def test_greedy_is_deterministic_and_most_fields_are_ignored(served: Served) -> None:
    """Without temperature and top_p the answer is always the same, one, and whole."""
    plain = _complete(served, prompt=PROMPT, max_tokens=8)
    ignored = {"n": 3, "seed": 7, "stream": True, "frequency_penalty": 2}
    assert _complete(served, prompt=PROMPT, max_tokens=8, **ignored) == plain
    assert _complete(served, prompt=PROMPT, max_tokens=8, temperature=1) != plain
    assert _status(served, prompt=PROMPT, temperature=0, top_p=0.9) == 500


def test_routes(served: Served) -> None:
    """Without its slash a path is redirected; a chat goes through the checkpoint's template."""
    bare = served.client.post("/v1/completions", json={})
    assert (bare.status_code, bare.headers["location"].endswith("/v1/completions/")) == (307, True)
    assert served.client.get("/v1/models").json()["data"][0]["id"] == "nemo-model"
    body = {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 4}
    chat = served.client.post("/v1/chat/completions/", json=body).json()
    prompt = "user: a b\nassistant:"
    same = _complete(served, prompt=prompt, max_tokens=4)
    assert chat["choices"][0]["message"]["content"] == same["text"]


@pytest.mark.parametrize(
    "fields",
    [{"prompt": [84, 104]}, {"prompt": ["a", "b"]}, {"prompt": "a", "echo": True}],
    ids=["tokens", "list", "echo alone"],
)
def test_what_it_cannot_do(served: Served, fields: dict[str, Any]) -> None:
    """Prompts that are no text, and echo without logprobs, are 500s."""
    assert _status(served, **fields) == 500


def test_a_batch_is_padded_with_zeros(served: Served) -> None:
    """Echoed scores get as many entries as the longest of the batch: the added ones are 0."""
    alone = _complete(served, prompt="short", **SCORE)["logprobs"]["token_logprobs"]
    bodies = [{"prompt": "short", **SCORE}, {"prompt": PROMPT, **SCORE}]
    short, long = _in_one_batch(served, *bodies)
    assert (len(alone), len(long)) == (len("short") + 1, len(PROMPT) + 1)
    assert short == alone + [0.0] * (len(long) - len(alone))


def test_a_batch_has_the_first_ones_settings(served: Served) -> None:
    """Of two requests that come together, both get as many tokens as one of them asked for."""
    bodies = [{"prompt": PROMPT, "max_tokens": n, "logprobs": 1} for n in (2, 5)]
    first, second = _in_one_batch(served, *bodies)
    assert len(first) == len(second)
    assert len(first) in (2, 5)


def test_numbers_that_mean_nothing(served: Served) -> None:
    """Usage counts words, and the finish reason compares characters with tokens."""
    body = {"prompt": "one two three", "max_tokens": 2, "echo": True, "logprobs": 1}
    reply = served.client.post("/v1/completions/", json=body).json()
    assert reply["usage"]["prompt_tokens"] == 3
    long = {"prompt": PROMPT, "max_tokens": 20, "echo": True, "logprobs": 1, "stop": ["�"]}
    choice = _complete(served, **long)
    assert (len(choice["text"]) >= 20, choice["finish_reason"]) == (True, "length")


def _url(served: Served) -> str:
    return str(served.client.base_url).rstrip("/") + "/v1"


def _asked(served: Served, *bodies: dict[str, Any]) -> list[Any]:
    """The choices that a worker gets, which may have all the bodies in flight at once."""

    async def ask() -> list[Answer]:
        async with HttpClient(_url(served), connections=8) as client:
            asker = Asker(
                client,
                8,
                RetryPolicy(retries=0),
                one_sampling_config=True,
                dialect=DIALECTS["export-deploy"],
            )
            requests = [
                Request(bytes(20), "b", "model", "POST", "/completions", json.dumps(body).encode())
                for body in bodies
            ]
            return await asyncio.gather(*map(asker.ask_in_turn, requests))

    return [json.loads(answer.body)["choices"] for answer in asyncio.run(ask())]


def test_a_worker_gets_the_scores_of_a_batch_of_one(served: Served) -> None:
    """Of a batch of unequal prompts: no padding, and each token beside its alternatives."""
    prompts = ["short", PROMPT, "a longer prompt, " + PROMPT]
    bodies = [{"prompt": prompt, "temperature": 0, **SCORE} for prompt in prompts]
    for body, choices in zip(bodies, _asked(served, *bodies), strict=True):
        alone = _complete(served, **body)["logprobs"]
        assert choices[0]["logprobs"]["token_logprobs"] == pytest.approx(alone["token_logprobs"])
        assert choices[0]["logprobs"]["top_logprobs"][0] is None
        assert len(choices[0]["logprobs"]["top_logprobs"]) == len(alone["token_logprobs"])


def test_a_worker_mixes_no_settings_and_may_ask_for_several_prompts(served: Served) -> None:
    """Two limits at once, lists, copies, a stop word: each as if asked alone."""
    (short,), (long,) = _asked(
        served, *({"prompt": PROMPT, "max_tokens": n, "temperature": 0} for n in (2, 9))
    )
    assert short["text"] == _complete(served, prompt=PROMPT, max_tokens=2)["text"]
    whole = _complete(served, prompt=PROMPT, max_tokens=9)["text"]
    assert long["text"] == whole
    (many, cut) = _asked(
        served,
        {"prompt": ["a", PROMPT], "n": 2, "max_tokens": 9, "temperature": 0, "top_p": 0.9},
        {"prompt": PROMPT, "stop": whole[3], "max_tokens": 9, "temperature": 0},
    )
    assert [choice["index"] for choice in many] == [0, 1, 2, 3]
    assert [choice["text"] for choice in many[2:]] == [whole, whole]
    assert cut[0]["text"] == whole[: whole.index(whole[3])]


def test_it_is_ready_when_it_completes_a_token(served: Served) -> None:
    """The probe follows the redirect to the path with a slash."""
    for kind in ("completions", "chat"):
        wait_ready(_url(served), "nemo-model", kind=kind, token=None, deadline=60)


def test_healthy_after_the_model_died(served: Served) -> None:
    """With one rank killed every request fails, and /v1/health says 200."""
    killed = _ranks(served.ray_address)
    assert len(killed) == 2
    os.kill(killed[1], signal.SIGKILL)
    assert _status(served, prompt=PROMPT) == 500
    assert served.client.get("/v1/health").status_code == 200


def _ranks(ray_address: str) -> list[int]:
    """The processes of the ranks that belong to this Ray."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::ModelWorker"):
                environment = (folder / "environ").read_bytes().split(b"\0")
                if f"RAY_ADDRESS={ray_address}".encode() in environment:
                    found.append(int(folder.name))
        except OSError:
            pass  # no process, or one that has ended meanwhile
    return sorted(found)


@given(st.text() | st.sampled_from(["a<|endoftext|>b", " é\n\n", "\x00"]))
def test_the_tokenizer_beside_the_checkpoint(checkpoint: Path, text: str) -> None:
    """What a harness counts with the tokenizer's folder is what the server computes with."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer" / "tokenizer.json"))
    tokens = tokenizer.encode(text).ids
    assert tokens == byte_tokenizer.encode(text)
    assert byte_tokenizer.decode(tokens) == text
