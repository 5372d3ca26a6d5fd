"""What a secret looks like where it should not be: in a script, or in the record of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from evalhpc.core.masking import Mask, secret_values

#: A shorter value of a variable may stand in a script by chance.
_SHORTEST_VALUE = 12
_SHAPES = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
    "a key of the OpenAI kind": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a hub token": r"\bhf_[A-Za-z0-9]{20,}",
    "a token of a code forge": r"\b(gh[pousr]_|github_pat_|glpat-)[\w-]{20,}",
    "a cloud access key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{35}|\bya29\.[\w-]{20,}",
    "a chat service's token": r"\bxox[abeprs]-[\w-]{10,}",
    "a registry key": r"\bnvapi-[\w-]{20,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^/\s:@'\"]*:(?!\$)[^/\s:@'\"]+@",
    "a bearer token": r"(?i)\bauthorization\W{1,6}(bearer|basic) (?!\$)[A-Za-z0-9+/_.=-]{16,}"
    # Without the header's name prose and paths could follow the word, but for random letters.
    r"|(?i:\b(bearer|basic)) (?=[^ ]*[a-z])(?=[^ ]*[A-Z])(?=[^ ]*[0-9])[A-Za-z0-9+_.=-]{16,}",
}
#: NAME=value, --name value, "name": "value": what is called a secret, and is no $VARIABLE.
_NAMED = re.compile(
    r"""(?ix) (?P<name> \b [\w-]* (api[_-]?key | access[_-]?key | secret[_-]?key | private[_-]?key
        | token | secret | password | passwd | passphrase) ) ["']? (?: [ ]*[=:][ ]* | [ ]+ ) ["']?
        (?P<value> [A-Za-z0-9+/_.=!@%^&*-]{8,} )"""
)
#: What models call their own tokens.
_OF_TEXT = re.compile(r"(?i)(^|[_-])(end|stop|eos|bos|pad|unk|sep|think\w*)[_-]token$")
#: Drawn at random, as no name of a model is: a row of letters and digits, or a UUID.
_RANDOM = re.compile(
    r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-"
)
_OPTION = re.compile(r"^[\s-]*['\"]?--?[\w-]+['\"]?$")
_COMPILED = {kind: re.compile(shape) for kind, shape in _SHAPES.items()}


class Suspect(NamedTuple):
    """Where something looks like a secret; what it is, without its value."""

    line: int
    what: str
    certain: bool = True  # else a harmless word is as likely


def suspects(text: str, environ: Mapping[str, str] | None = None) -> Iterator[Suspect]:
    """Everything in `text` that looks like a secret, or is one of `environ`."""
    known = [
        (name, Mask([value], shortest=_SHORTEST_VALUE))
        for name, value in secret_values(environ or {}).items()
    ]
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        for name, mask in known:
            if mask.found_in(line.encode("utf-8", "surrogatepass")):
                yield Suspect(number, f"the value of ${name}")
        for kind, shape in _COMPILED.items():
            if shape.search(line):
                yield Suspect(number, kind)
        # Words of a command stand on lines of their own: an option, and then its value.
        if _OPTION.search(line):
            line = f"{line.strip()} {''.join(lines[number : number + 1]).strip(' -')}"
        for found in _NAMED.finditer(line):
            name, value = found["name"], found["value"]
            if _is_value(value) and not _OF_TEXT.search(name):
                # Much is called a token that is none.
                certain = not name.lower().endswith("token") or _RANDOM.search(value) is not None
                yield Suspect(number, f"a value of {name}", certain)


def _is_value(text: str) -> bool:
    """Not a word, a path or a name of a variable, as which most of what follows such names comes.

    A key has digits among its letters, as prose, options and names of variables hardly have.
    """
    if text.startswith(("/", "./", "--")) or re.fullmatch(r"[A-Z0-9_]+|[a-z_-]+", text):
        return False
    return any(char.isdigit() for char in text) and any(char.isalpha() for char in text)
