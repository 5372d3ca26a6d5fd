"""How a server departs from OpenAI's protocol: requests as it takes them, replies put right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from evalhpc.core.identity import Answer, Request
from evalhpc.core.sampling import sampling_config
from evalhpc.errors import EndpointError
from evalhpc.worker.replies import ignores_echo, misfit


class NoAnswer(EndpointError):
    """A reply with status 200 that is none: its request is given up, and others may be answered."""


class Dialect(Protocol):
    """Stands between a harness's request and the wire; pure, so the same for every try.

    Keys, plans and journals are of the harness's request and of the joined answer.
    """

    def adapt(self, request: Request) -> tuple[Request, ...]:
        """What to send instead, in this order; EndpointError if the server cannot serve it."""

    def join(self, request: Request, answers: Sequence[Answer]) -> Answer:
        """The answer to `request` from those to what `adapt` gave, in its order.

        Where one of them is a refusal (4xx), the rest may be missing. EndpointError for a reply
        that would be scored wrongly, NoAnswer for one that says only that it failed.
        """

    def turn(self, wire: Request) -> bytes:
        """Which requests may share a batch with this one: those whose bytes are the same."""


class OpenAI:
    """A server that takes requests as harnesses make them."""

    def adapt(self, request: Request) -> tuple[Request, ...]:
        """The request itself."""
        return (request,)

    def join(self, request: Request, answers: Sequence[Answer]) -> Answer:
        """The reply itself; EndpointError if it lacks the echo that a score is made of.

        NoAnswer if it is none to this request: with more or fewer choices, a stream.
        """
        (answer,) = answers
        if answer.status >= 300:
            return answer
        if ignores_echo(request.body, answer.body):
            raise no_echo(request)
        wrong = misfit(request.path, request.body, answer.content_type, answer.body)
        if wrong:
            raise NoAnswer(f"the model server's reply cannot be used: {wrong}")
        return answer

    def turn(self, wire: Request) -> bytes:
        """Its sampling configuration."""
        return sampling_config(wire.path, wire.body)


def no_echo(request: Request) -> EndpointError:
    """A server that scored other tokens than it was asked to."""
    return EndpointError(
        f"the model server ignores `echo`: it gave no log-probabilities of the prompt, "
        f"which {request.benchmark} is scored by",
        cause="this server cannot score prompts (llama.cpp cannot)",
        hint="serve the model with another server (hf, vllm), or choose generation tasks",
    )
