"""What a user wishes on the command line of `evalhpc submit`, before anything is looked up."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evalhpc.config.validation import validate
from evalhpc.errors import UsageError
from evalhpc.models.suite import MODEL_ENDPOINT, EndpointWish

_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
_EXAMPLE = "--with judge=/path/to/checkpoint, or judge=https://HOST/v1,model_id=NAME"


@dataclass(frozen=True)
class Wish:
    """The command line of `evalhpc submit`, as it was given."""

    site: str | None = None
    model: str | None = None
    endpoint: str | None = None
    model_id: str | None = None
    api_key_env: str | None = None
    others: tuple[str, ...] = ()  # --with: each NAME=WHERE[,KEY=VALUE...]
    suite: str | None = None
    tasks: str | None = None
    shards: int | None = None
    limit: int | None = None
    sets: tuple[str, ...] = ()
    run_dir: Path | None = None
    name: str | None = None


def parse_others(texts: Iterable[str]) -> dict[str, EndpointWish]:
    """`--with NAME=WHERE[,KEY=VALUE...]` as endpoints by name; raises UsageError, ConfigError."""
    wishes: dict[str, EndpointWish] = {}
    for text in texts:
        name, wish = _other(text)
        if name in wishes:
            raise UsageError(f"--with {name} is given twice", hint="keep one of them")
        wishes[name] = wish
    return wishes


def checked_name(name: str) -> str:
    """A name for an endpoint beside the model under test; raises UsageError."""
    if name == MODEL_ENDPOINT:
        raise UsageError(
            f"{name!r} is the name of the model under test",
            hint="name the other one after its part: judge, user, embedder",
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an endpoint: lower-case letters, digits and '_' are needed",
            cause="it becomes a variable (EVALHPC_JUDGE_BASE_URL) and a part of a URL",
            hint=_EXAMPLE,
        )
    return name


def _other(text: str) -> tuple[str, EndpointWish]:
    name, equals, rest = text.partition("=")
    where, *options = rest.split(",")
    pairs = [option.partition("=") for option in options]
    if not equals or not where or not all(sign and key for key, sign, _ in pairs):
        raise UsageError(f"--with {text}: NAME=WHERE[,KEY=VALUE...] is needed", hint=_EXAMPLE)
    data: dict[str, str] = {key: value for key, _, value in pairs}
    data["url" if "://" in where else "model"] = where
    return checked_name(name), validate(EndpointWish, data, f"--with {name}")
