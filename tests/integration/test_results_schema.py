"""NeMo Evaluator's own closed models read our results document back unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.core.test_results import document

pytestmark = pytest.mark.server

_CHECK = """
import json, sys
from nemo_evaluator.api.api_dataclasses import (
    EvaluationConfig, EvaluationResult, EvaluationTarget,
)
found = json.load(sys.stdin)
EvaluationConfig.model_validate(found["config"])
EvaluationTarget.model_validate(found["target"])
json.dump(EvaluationResult.model_validate(found["results"]).model_dump(exclude_none=True),
          sys.stdout)
"""


def test_nemo_evaluator_itself_accepts_the_document() -> None:
    """In the environment that scripts/test gives it."""
    python = Path(sys.prefix) / "harnesses" / "nemo-evaluator" / "bin" / "python"
    if not python.exists():
        if os.environ.get("EVALHPC_REQUIRE_HARNESSES") == "1":
            pytest.fail(f"{python} is missing: scripts/test makes it")
        pytest.skip(f"{python} is missing: scripts/test makes it")
    found = document()
    done = subprocess.run(
        [python, "-c", _CHECK], input=json.dumps(found), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == found["results"]
