"""What a server does with a prompt, apart from the prompt: a request's sampling configuration."""

from __future__ import annotations

import hashlib

from evalhpc.core.identity import canonical_body

#: Top-level fields that hold what is asked, or name the model; any other may steer the answer.
CONTENT = frozenset(
    {
        "prompt", "suffix", "messages", "input", "instructions", "model", "metadata",
        "query", "queries", "documents", "text_1", "text_2",
    }
)  # fmt: skip
CONFIG_BYTES = 8


def sampling_config(path: str, body: bytes) -> bytes:
    """8 bytes, the same for requests to `path` that differ in their content only.

    A field that is not known counts as one that steers (temperature, max_tokens, stop, echo, …):
    telling two requests apart in vain costs a pause, mixing them costs an answer. A body that
    is not a JSON object is a configuration of its own.
    """
    digest = hashlib.blake2b(f"{path}\0".encode(), digest_size=CONFIG_BYTES)
    digest.update(canonical_body(body, CONTENT))
    return digest.digest()
