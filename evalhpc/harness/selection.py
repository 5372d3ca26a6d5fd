"""Which documents a run of a harness had, for those that can be told which to run.

The catalogue's `selection` names how: the harness's script then takes EVALHPC_SAMPLES, a file of
JSON {TASK: [INDEX, …]} with the indices sorted, in place of a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evalhpc.core.slices import Documents
from evalhpc.errors import UsageError
from evalhpc.harness import lm_eval

SELECTIONS: dict[str, Callable[[Path], Documents]] = {"lm-eval": lm_eval.documents}


def documents_of(selection: str, output: Path) -> Documents:
    """The documents behind what the harness left in the folder `output`, by task.

    Raises UsageError for an unknown selection, HarnessError unless the samples are whole.
    """
    if selection not in SELECTIONS:
        raise UsageError(
            f"no selection named {selection!r}; there is: {', '.join(SELECTIONS)}",
            hint="correct `selection:` of the harness in the catalogue",
        )
    return SELECTIONS[selection](output)
