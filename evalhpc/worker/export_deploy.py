"""The dialects of NVIDIA's Export-Deploy servers: Megatron in the framework, and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalhpc.core.identity import Answer, Request, parse_json
from evalhpc.core.sampling import sampling_config
from evalhpc.core.stubs.fields import dump
from evalhpc.worker.dialect import NoAnswer
from evalhpc.worker.export_deploy_reply import generated_text, joined_body
from evalhpc.worker.export_deploy_request import Asked, read_request, refusal, route_of

#: What a text of the transformers server begins with when there was none to give.
_ERROR = "An error occurred: "


class ExportDeploy:
    """One prompt a request, few fields, a slash at the end of paths, and replies put right."""

    def adapt(self, request: Request) -> tuple[Request, ...]:
        """A request for each prompt and copy; EndpointError for what the server cannot do."""
        if request.method != "POST":
            return (request,)
        asked = read_request(request)
        path, query = route_of(request) + "/", request.path.partition("?")[1:]
        return tuple(
            replace(request, path=path + "".join(query), body=_body(asked, content))
            for content in asked.contents
            for _ in range(asked.sent_for_each)
        )

    def join(self, request: Request, answers: Sequence[Answer]) -> Answer:
        """One answer in the prompts' order; the first refusal if there is one."""
        refused = next((answer for answer in answers if answer.status >= 300), None)
        if refused is not None or request.method != "POST":
            return refused or answers[0]
        if any(answer.content_type.startswith("text/event-stream") for answer in answers):
            raise NoAnswer("the model server's reply cannot be used: it is a stream")
        kind, body = joined_body(read_request(request), [answer.body for answer in answers])
        latency = sum(answer.latency for answer in answers)
        attempts = max(answer.attempts for answer in answers)
        return Answer(answers[0].status, kind, body, latency, attempts)

    def turn(self, wire: Request) -> bytes:
        """Its sampling configuration: a batch gets that of its first request.

        Log-probabilities of generated tokens go alone: a batch of unequal lengths is an error.
        """
        config = sampling_config(wire.path, wire.body)
        fields = parse_json(wire.body) if wire.method == "POST" else {}
        return config + wire.key if "logprobs" in fields and "echo" not in fields else config


class ExportDeployHf(ExportDeploy):
    """The same in front of transformers, which never samples, and reports errors as texts."""

    def adapt(self, request: Request) -> tuple[Request, ...]:
        """As for Megatron; sampling is refused, since every text would be the likeliest."""
        if request.method == "POST" and not read_request(request).greedy:
            raise refusal(
                request,
                "never samples: at any temperature its answer is the likeliest text",
                "set params.temperature: 0, or serve the model with vllm",
            )
        return super().adapt(request)

    def join(self, request: Request, answers: Sequence[Answer]) -> Answer:
        """As for Megatron; NoAnswer where the text is the server's report of an error."""
        for answer in answers:
            streamed = answer.content_type.startswith("text/event-stream")  # refused below
            if answer.status < 300 and request.method == "POST" and not streamed:
                text = generated_text(answer.body)
                if text.startswith(_ERROR):
                    raise NoAnswer(text[:300])
        return super().join(request, answers)


def _body(asked: Asked, content: object) -> bytes:
    return dump({("messages" if asked.chat else "prompt"): content, **asked.settings})
