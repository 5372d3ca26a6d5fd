"""Generates from a Megatron checkpoint: rank 0 is asked, the other ranks follow it.

Each prompt of a batch is computed by itself, so that no answer depends on its neighbours even in
the last bit; what Export-Deploy does wrongly with a batch is in ray_megatron.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import byte_tokenizer
import torch
import toy_gpt


@dataclass(frozen=True)
class Sampling:
    """One setting for a whole batch, as the engine knows no other."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    log_probs: bool
    top_log_probs: int
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What one prompt gave; the prompt's lists begin with its second token."""

    prompt: str
    text: str
    prompt_log_probs: list[float]
    log_probs: list[float]
    prompt_top: list[dict[str, float]]
    top: list[dict[str, float]]


class Engine:
    """This rank's part of the model."""

    def __init__(
        self, checkpoint: Path, place: toy_gpt.Place, *, longest: int, seed: int | None
    ) -> None:
        torch.set_num_threads(1)  # ranks share the machine, and sums keep their order
        toy_gpt.join_ranks(place)
        folder = toy_gpt.iteration_folder(checkpoint)
        self.model = toy_gpt.load(folder, place)
        self.place, self.longest = place, longest
        self.chat_template = _chat_template(toy_gpt.saved_arguments(folder))
        self.random = torch.Generator().manual_seed(1234 if seed is None else seed)
        torch.distributed.barrier()

    def follow(self) -> None:
        """Computes along with rank 0, for ever."""
        while True:
            message: list[Any] = [None, None]
            torch.distributed.broadcast_object_list(message, src=0)
            try:
                self._generate(*message)
            except ValueError:
                pass  # rank 0 raises it too, and answers with it

    def generate(self, prompts: list[Any], sampling: Sampling) -> list[Answer]:
        """Rank 0 only. Raises ValueError for a prompt that is no text or is too long."""
        if self.place.world_size > 1:
            torch.distributed.broadcast_object_list([prompts, sampling], src=0)
        return self._generate(prompts, sampling)

    def _generate(self, prompts: list[Any], sampling: Sampling) -> list[Answer]:
        encoded = [self._tokens(prompt, sampling) for prompt in prompts]
        with torch.inference_mode():
            return [
                self._answer(prompt, tokens, sampling)
                for prompt, tokens in zip(prompts, encoded, strict=True)
            ]

    def _tokens(self, prompt: Any, sampling: Sampling) -> list[int]:
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f"the prompt is no text: {type(prompt).__name__}")
        tokens = byte_tokenizer.encode(prompt)
        if not 0 <= sampling.max_tokens <= self.longest - len(tokens):
            raise ValueError(f"{len(tokens)} + {sampling.max_tokens} tokens exceed {self.longest}")
        return tokens

    def _answer(self, prompt: str, start: list[int], sampling: Sampling) -> Answer:
        stops = [byte_tokenizer.encode(stop) for stop in sampling.stop]
        tokens = list(start)
        while len(tokens) < len(start) + sampling.max_tokens:
            tokens.append(self._next(self._logits(tokens)[-1], sampling))
            new = tokens[len(start) :]
            if new[-1] == byte_tokenizer.END or any(new[-len(stop) :] == stop for stop in stops):
                break
        text = byte_tokenizer.decode(tokens[len(start) :])
        if not (sampling.log_probs or sampling.top_log_probs) or len(tokens) == 1:
            return Answer(prompt, text, [], [], [], [])
        scores = torch.log_softmax(self._logits(tokens[:-1]), dim=-1)
        chosen = scores.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
        best = _best(scores, sampling.top_log_probs)
        cut = len(start) - 1
        return Answer(prompt, text, chosen[:cut], chosen[cut:], best[:cut], best[cut:])

    def _logits(self, tokens: list[int]) -> torch.Tensor:
        """Position × vocabulary."""
        ids = torch.tensor([tokens])
        logits = toy_gpt.forward(self.model, ids, torch.arange(len(tokens))[None])
        return logits[0]

    def _next(self, logits: torch.Tensor, sampling: Sampling) -> int:
        """Raises ValueError where temperature 0 meets top_p, as no probabilities are left."""
        if sampling.top_k == 1:
            return int(logits.argmax())
        logits = logits / sampling.temperature
        if sampling.top_k > 1:
            logits[logits < logits.topk(sampling.top_k).values[-1]] = -torch.inf
        elif sampling.top_p > 0:
            ordered, places = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            logits[places[before > sampling.top_p]] = -torch.inf
        chances = logits.softmax(-1)
        if not chances.isfinite().all():
            raise ValueError("probability tensor contains inf or nan")
        return int(torch.multinomial(chances, 1, generator=self.random))


def _best(scores: torch.Tensor, count: int) -> list[dict[str, float]]:
    if not count:
        return []
    values, places = scores.topk(count)
    return [
        {byte_tokenizer.decode([place]): value for place, value in zip(*row, strict=True)}
        for row in zip(places.tolist(), values.tolist(), strict=True)
    ]


def _chat_template(arguments: Any) -> str | None:
    settings = Path(arguments.tokenizer_model) / "tokenizer_config.json"
    if not settings.exists():
        return None
    template: str | None = json.loads(settings.read_text()).get("chat_template")
    return template
