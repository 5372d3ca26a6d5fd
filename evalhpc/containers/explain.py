"""Why a command did not start in its image: found in a log, whatever the runtime."""

from __future__ import annotations

import re

from evalhpc.causes.table import RUNTIMES, matches

#: `evalhpc node enter` ends with these words, and its own cause and hint follow them.
_OURS = re.compile(
    r"^error: (?P<what>(?:the image|the mount) [^\n]*)"
    r"(?:\n *likely cause: (?P<cause>[^\n]*))?(?:\n *next: (?P<hint>[^\n]*))?",
    re.MULTILINE,
)


def explain(log: str) -> tuple[str, str, str] | None:
    """(message, likely cause, next step) of the first runtime error in a job's log, or None."""
    own = _OURS.search(log)
    if own:
        return own["what"], own["cause"] or "", own["hint"] or ""
    for match in matches(log, RUNTIMES):
        if not match.entry.consequence:
            return match.text, match.entry.cause, match.entry.remedy
    return None
