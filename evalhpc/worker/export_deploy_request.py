"""What a request asks of an Export-Deploy server: read, translated into its fields, or refused.

The servers of NVIDIA's Export-Deploy know few fields and ignore all others without
a word. So a field is sent on, translated, left out because it changes no answer, or refused:
never is it dropped where that would give another distribution, or another number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalhpc.core.identity import ALWAYS_VOLATILE, Request, parse_json
from evalhpc.errors import EndpointError

#: OpenAI's default for /completions; the server's own is 256.
DEFAULT_MAX_TOKENS = 16
_ROUTES = ("/completions", "/chat/completions")

#: Fields that are read below, one by one.
_READ = frozenset({
    "model", "prompt", "messages", "n", "best_of", "temperature", "top_p", "top_k", "do_sample",
    "max_tokens", "max_completion_tokens", "stop", "echo", "logprobs", "stream",
})  # fmt: skip
#: Fields that change no answer's distribution: what the server does without them is right.
_LEFT_OUT = ALWAYS_VOLATILE | {
    "seed", "stream_options", "metadata", "store", "service_tier", "priority",
}  # fmt: skip
#: Values of fields that the server ignores, with which they say what it does anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),  # without tools
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "top_logprobs": (0,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
}


@dataclass(frozen=True)
class Asked:
    """A request that the server can serve, in its own terms."""

    chat: bool
    contents: tuple[Any, ...]  # prompts (text), or one conversation (list of messages)
    settings: dict[str, Any]  # what is sent beside a content
    copies: int  # choices for each content
    greedy: bool  # so that copies are the same
    stop: tuple[str, ...]
    echo: bool
    logprobs: int | None  # as the harness asked; None: not at all
    stream: bool

    @property
    def sent_for_each(self) -> int:
        """Requests for one content: copies of the likeliest text need no second one."""
        return 1 if self.greedy else self.copies


def read_request(request: Request) -> Asked:
    """What a POST asks; EndpointError where the server would do something else."""
    route = route_of(request)
    if route not in _ROUTES:
        raise refusal(request, f"serves no {route}", "choose benchmarks for completions or chat")
    reader = _Reader(request, _fields(request))
    reader.refuse_unknown()
    return reader.chat() if route == "/chat/completions" else reader.completion()


def route_of(request: Request) -> str:
    """The path without query and trailing slash."""
    return request.path.partition("?")[0].rstrip("/")


def _fields(request: Request) -> dict[str, Any]:
    try:
        value = parse_json(request.body)
    except (ValueError, RecursionError) as error:
        raise refusal(request, "takes JSON only") from error
    if not isinstance(value, dict):
        raise refusal(request, "takes a JSON object only")
    return {name: item for name, item in value.items() if item is not None}


class _Reader:
    """The fields of one request; a field that is null counts as absent."""

    def __init__(self, request: Request, fields: dict[str, Any]) -> None:
        self._request = request
        self._fields = fields

    def refuse_unknown(self) -> None:
        """Refuse every field that would change the answer on a server that knows it."""
        for name, value in self._fields.items():
            if name in _READ or name in _LEFT_OUT:
                continue
            if not any(value == neutral for neutral in _NEUTRAL.get(name, ())):
                raise self._no(f"ignores `{name}` ({_shown(value)})", _advice(name))

    def completion(self) -> Asked:
        """A request to /completions."""
        echo, wanted = self._flag("echo"), self._logprobs()
        stop = self._stop()
        if stop and wanted is not None:
            raise self._no(
                "gives no tokens, so that log-probabilities cannot be cut where `stop` cuts the "
                "text"
            )
        settings = self._sampling()
        settings["max_tokens"] = self._max_tokens(DEFAULT_MAX_TOKENS)
        if echo:
            settings["echo"] = True
        if wanted is not None or echo:  # echo alone is an error 500 there
            settings["logprobs"] = max(1, wanted or 0)
        return self._asked(self._prompts(), settings, stop, echo=echo, logprobs=wanted)

    def chat(self) -> Asked:
        """A request to /chat/completions."""
        if self._flag("logprobs"):
            raise self._no(
                "gives no tokens with a chat's log-probabilities",
                "score with completions: params.endpoint: completions",
            )
        if self._flag("echo"):
            raise self._no("ignores `echo` in a chat")
        settings = self._sampling()
        settings["max_tokens"] = self._max_tokens(None)
        return self._asked((self._messages(),), settings, self._stop(), chat=True)

    def _asked(
        self,
        contents: tuple[Any, ...],
        settings: dict[str, Any],
        stop: tuple[str, ...],
        *,
        chat: bool = False,
        echo: bool = False,
        logprobs: int | None = None,
    ) -> Asked:
        if stop:
            settings["stop"] = list(stop)  # a plain string would be taken apart
        if "model" in self._fields:
            settings["model"] = self._fields["model"]
        greedy = settings["temperature"] == 0
        copies = self._copies()
        stream = self._flag("stream")
        return Asked(chat, contents, settings, copies, greedy, stop, echo, logprobs, stream)

    # --- content

    def _prompts(self) -> tuple[str, ...]:
        prompt = self._fields.get("prompt")
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if prompts and all(isinstance(item, str) for item in prompts):
            return tuple(prompts)
        if prompts and all(isinstance(item, (int, list)) for item in prompts):
            raise self._no(
                "takes no token ids as a prompt, only text",
                "have the harness send text; for lm-eval add to the benchmark: "
                "params: {model_args: {tokenized_requests: false}}",
            )
        raise self._no(f"takes text as a prompt, not {_shown(prompt)}")

    def _messages(self) -> list[dict[str, Any]]:
        messages = self._fields.get("messages")
        if not isinstance(messages, list) or not messages:
            raise self._no("needs `messages`")
        return [self._message(message) for message in messages]

    def _message(self, message: Any) -> dict[str, Any]:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
            part = content[0]
            content = part.get("text") if part.get("type") == "text" else None
        if not isinstance(content, str):
            raise self._no("takes messages of one text each: no images, parts or tool calls")
        return {**message, "content": content}

    # --- sampling

    def _sampling(self) -> dict[str, Any]:
        """Temperature, top_p and top_k; without a temperature the server would be greedy."""
        temperature = self._number("temperature", 1.0)
        top_p, top_k = self._number("top_p", 1.0), self._number("top_k", 0)
        if temperature < 0:
            raise self._no(f"cannot sample at temperature {temperature}")
        drawn = self._fields.get("do_sample", True) is not False
        if temperature == 0 or top_p <= 0 or top_k == 1 or not drawn:
            return {"temperature": 0.0, "top_k": 1}  # with top_p beside it, it would sample
        settings: dict[str, Any] = {"temperature": float(temperature)}
        if top_p < 1:
            settings["top_p"] = top_p
        if top_k > 0:
            if top_p < 1:
                raise self._no("cannot apply top_k and top_p together", "leave one of them out")
            settings["top_k"] = top_k
        return settings

    def _copies(self) -> int:
        copies = self._count("n", 1)
        if copies < 1:
            raise self._no("gives at least one answer, and `n` is 0")
        if self._count("best_of", copies) != copies:
            raise self._no("cannot choose the best of several answers", "leave out `best_of`")
        return copies

    def _max_tokens(self, default: int | None) -> int:
        names = [n for n in ("max_completion_tokens", "max_tokens") if n in self._fields]
        limits = {self._count(name, 0) for name in names}
        if len(limits) > 1 or limits == {0}:
            raise self._no("needs one limit of at least 1 token", "set params.max_new_tokens")
        limit = limits.pop() if limits else default
        if limit is None:
            raise self._no(
                "cuts a chat's answer without max_tokens at a length of its own",
                "set params.max_new_tokens of the benchmark",
            )
        return limit

    def _stop(self) -> tuple[str, ...]:
        stop = self._fields.get("stop", [])
        words = stop if isinstance(stop, list) else [stop]
        if not all(isinstance(word, str) for word in words):
            raise self._no(f"takes texts as `stop`, not {_shown(stop)}")
        return tuple(word for word in words if word)

    def _logprobs(self) -> int | None:
        wanted = self._fields.get("logprobs", False)
        if isinstance(wanted, bool):
            return 1 if wanted else None
        return self._count("logprobs", 0)

    # --- values

    def _flag(self, name: str) -> bool:
        value = self._fields.get(name, False)
        if not isinstance(value, bool):
            raise self._no(f"takes true or false as `{name}`, not {_shown(value)}")
        return value

    def _number(self, name: str, default: float) -> float:
        value = self._fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._no(f"takes a number as `{name}`, not {_shown(value)}")
        return value

    def _count(self, name: str, default: int) -> int:
        value = self._fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._no(f"takes a count as `{name}`, not {_shown(value)}")
        return value

    def _no(self, what: str, hint: str = "") -> EndpointError:
        return refusal(self._request, what, hint)


def refusal(request: Request, what: str, hint: str = "") -> EndpointError:
    """The error that ends a run whose benchmark asks for what the server would get wrong."""
    return EndpointError(
        f"{request.benchmark} asks what an Export-Deploy server cannot do: it {what}",
        cause="NVIDIA's Export-Deploy servers ignore such fields, or fail on them, and a score "
        "made that way would be wrong",
        hint=hint or "change the benchmark's params, or serve the model with vllm",
    )


def _advice(name: str) -> str:
    if name in ("tools", "functions", "response_format"):
        return "serve the model with vllm for tool calls and structured output"
    return f"leave `{name}` out of the benchmark's params, or serve the model with vllm"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
