"""The actor that is one rank of a model, on one "GPU" of Ray's books."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

import byte_tokenizer
import jinja2
import numpy as np
import psutil
import ray


@ray.remote(num_gpus=1)
class ModelWorker:
    """One rank. Rank 0 answers; the others never return from their constructor."""

    def __init__(self, checkpoint: str, place: dict[str, Any], settings: dict[str, Any]) -> None:
        # Only here: who asks the actors has no use for torch.
        import megatron_engine
        import toy_gpt

        _meet_on(ray.util.get_node_ip_address())
        self.engine = megatron_engine.Engine(Path(checkpoint), toy_gpt.Place(**place), **settings)
        if place["rank"]:
            self.engine.follow()

    def infer(self, prompts: list[Any], inputs: dict[str, Any], chat: bool) -> dict[str, Any]:
        """Texts and, if asked for, log-probabilities; echoed ones are padded with zeros."""
        from megatron_engine import Sampling  # as above

        if chat:
            prompts = [self._conversation(messages) for messages in prompts]
        top, echo = int(inputs["logprobs"] or 0), inputs["echo"]
        sampling = Sampling(
            max_tokens=inputs["max_tokens"],
            temperature=inputs["temperature"],
            top_k=int(inputs["top_k"]),
            top_p=float(inputs["top_p"]),
            log_probs=top > 0,
            top_log_probs=0 if chat else top,
            stop=tuple(inputs["stop"]),
        )
        answers = self.engine.generate(prompts, sampling)
        result: dict[str, Any] = {
            "texts": [_until_end((a.prompt if echo else "") + a.text) for a in answers]
        }
        if sampling.log_probs:
            rows = [(a.prompt_log_probs if echo else []) + a.log_probs for a in answers]
            longest = max(map(len, rows)) if echo else 0
            padded = [row + [0.0] * (longest - len(row)) for row in rows]
            result["log_probs"] = np.array(padded).tolist()  # raises for rows of unequal length
        if sampling.top_log_probs:
            result["top"] = [(a.prompt_top if echo else []) + a.top for a in answers]
        return result

    def _conversation(self, messages: list[dict[str, Any]]) -> str:
        if self.engine.chat_template is None:
            raise ValueError("The tokenizer has no chat template")
        template = jinja2.Template(self.engine.chat_template)
        return str(template.render(messages=messages, bos_token="", add_generation_prompt=True))


def free_port(address: str) -> int:
    """A port that is free now."""
    for port in range(random.randint(29500, 39500), 65536):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no port of {address} is free")


def _until_end(text: str) -> str:
    """TEXT up to its last end marker, which may be one of an echoed prompt."""
    return text.rsplit(byte_tokenizer.END_TEXT, 1)[0]


def _meet_on(address: str) -> None:
    """Has gloo use the interface with this address; its own choice is where the hostname points."""
    if address.startswith("127."):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name
