"""Who is warned that a model server can be asked by others."""

from __future__ import annotations

import pytest

from evalhpc.core.exposure import exposure_warnings
from tests.factories import make_spec

MODEL = {"model_id": "m", "format": "hf", "path": "/m", "url": None}


@pytest.mark.parametrize(
    ("kind", "extra", "said"),
    [
        ("sglang", [], "other users of its node"),
        ("hf-ray", ["--time-min=1"], "other users of its node"),
        ("sglang", ["--exclusive"], None),
        ("sglang", ["--exclusive=user"], None),
        ("sglang", ["--exclusive=mcs"], "other users of its node"),
        ("nim", ["--exclusive"], "all addresses"),
        ("vllm", [], None),
        ("llamacpp", [], None),
    ],
)
def test_servers_without_a_token_are_named(kind: str, extra: list[str], said: str | None) -> None:
    """Where nodes are shared, or the server cannot be kept off the network."""
    spec = make_spec(
        site={"name": "s", "slurm": {"extra": extra}}, model=MODEL, deployment={"kind": kind}
    )
    warnings = list(exposure_warnings(spec))
    assert [said in warning for warning in warnings] == [True] if said else warnings == []


def test_a_server_that_is_up_is_its_owners_affair() -> None:
    """An existing endpoint is not started here."""
    assert list(exposure_warnings(make_spec())) == []
