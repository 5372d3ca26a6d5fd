"""Prints what a Megatron checkpoint makes of a prompt, on one rank and without any server.

.venv/harnesses/megatron/bin/python tests/standins/complete.py CHECKPOINT PROMPT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import megatron_engine
import toy_gpt


def main() -> None:
    """One line of JSON: the text, and the log-probabilities of the prompt and of the text."""
    parser = argparse.ArgumentParser(description="Complete a prompt greedily.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    place = toy_gpt.Place(port=options.port)
    engine = megatron_engine.Engine(options.checkpoint, place, longest=4096, seed=None)
    sampling = megatron_engine.Sampling(
        max_tokens=options.max_tokens,
        temperature=0.0,
        top_k=1,
        top_p=0.0,
        log_probs=True,
        top_log_probs=1,
        stop=(),
    )
    answer = engine.generate([options.prompt], sampling)[0]
    print(json.dumps([answer.text, answer.prompt_log_probs, answer.log_probs]))


if __name__ == "__main__":
    main()
