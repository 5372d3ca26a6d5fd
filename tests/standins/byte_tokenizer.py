"""A tokenizer of bytes, token id = byte, and the same one as a Hugging Face tokenizer folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

VOCABULARY = 256
#: No UTF-8 text has this byte.
END = 255
END_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def encode(text: str) -> list[int]:
    """The bytes of TEXT; the end marker is one token."""
    head, *rest = text.split(END_TEXT)
    return [*head.encode(), *(byte for part in rest for byte in (END, *part.encode()))]


def decode(tokens: Iterable[int]) -> str:
    """The text of TOKENS; bytes that are no UTF-8 become U+FFFD."""
    chunks: list[bytes] = [b""]
    for token in tokens:
        if token == END:
            chunks.append(b"")
        else:
            chunks[-1] += bytes([token])
    return END_TEXT.join(chunk.decode(errors="replace") for chunk in chunks)


def write_folder(folder: Path) -> None:
    """Writes FOLDER for transformers' AutoTokenizer: the same ids, and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = {letter: byte for byte, letter in _letters().items() if byte != END}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": END, "content": END_TEXT, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "vocab": letters, "merges": []},
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _letters() -> dict[int, str]:
    """Byte → the letter that a byte-level vocabulary writes it as: itself if it is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }
