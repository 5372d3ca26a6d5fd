"""Which folder holds a tokenizer, and whether it has a chat template."""

from __future__ import annotations

from pathlib import Path

from evalhpc.deploy.metadata_files import read_mapping

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "tiktoken.model")
_NO_TOKENIZER = "no tokenizer files: a harness that counts tokens needs params.tokenizer=FOLDER"


def tokenizer_folder(*folders: Path) -> Path | None:
    """The first of `folders` that holds a tokenizer."""
    return next((folder for folder in folders if _has_tokenizer(folder)), None)


def has_chat_template(folder: Path | None) -> bool:
    """Whether the tokenizer in `folder` has a chat template; raises ModelError for bad JSON."""
    if folder is None:
        return False
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(read_mapping(config).get("chat_template"))


def warn_without(tokenizer: Path | None) -> tuple[str, ...]:
    """What a user should know when there is no tokenizer."""
    return () if tokenizer else (_NO_TOKENIZER,)


def _has_tokenizer(folder: Path) -> bool:
    whole = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return whole or ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file())
