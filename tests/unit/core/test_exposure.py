"""Which model servers others could ask: refused on a cluster, unless that is accepted."""

from __future__ import annotations

import pytest

from evalhpc.core.exposure import refuse_exposed
from evalhpc.errors import ConfigError
from tests.factories import make_spec

MODEL = {"model_id": "m", "format": "hf", "path": "/m", "url": None}


@pytest.mark.parametrize(
    ("kind", "extra", "said"),
    [
        ("trtllm", [], "other users of its node"),
        ("hf-ray", ["--time-min=1"], "other users of its node"),
        ("trtllm", ["--exclusive"], None),
        ("triton", ["--exclusive=user"], None),
        ("megatron-ray", ["--exclusive=mcs"], "other users of its node"),
        ("nim", ["--exclusive"], "all addresses"),
        ("sglang", [], None),
        ("vllm", [], None),
        ("llamacpp", [], None),
    ],
)
def test_servers_without_a_token_are_refused(kind: str, extra: list[str], said: str | None) -> None:
    """Where nodes are shared, or the server cannot be kept off the network; or else named."""
    site = {"name": "s", "slurm": {"extra": extra}}
    spec = make_spec(site=site, model=MODEL, deployment={"kind": kind})
    accepted = make_spec(
        site={**site, "deploy": {"open_servers": True}}, model=MODEL, deployment={"kind": kind}
    )
    own = make_spec(site={**site, "scheduler": "local"}, model=MODEL, deployment={"kind": kind})
    if said is None:
        assert refuse_exposed(spec) == ()
        return
    with pytest.raises(ConfigError, match=said) as refused:
        refuse_exposed(spec)
    assert "deploy.open_servers=true" in refused.value.hint
    for tolerated in (accepted, own):
        assert [said in warning for warning in refuse_exposed(tolerated)] == [True]


@pytest.mark.parametrize(("asks", "refused"), [(True, False), (False, True)])
def test_a_command_of_the_users_own_is_believed(asks: bool, refused: bool) -> None:
    """That it asks for its token is tried when it is up."""
    command = {"kind": "generic", "command": "serve", "asks_token": asks}
    spec = make_spec(site={"name": "s"}, model=MODEL, deployment=command)
    try:
        assert refuse_exposed(spec) == ()
        assert not refused
    except ConfigError:
        assert refused


def test_a_server_that_is_up_is_its_owners_affair() -> None:
    """An existing endpoint is not started here."""
    assert refuse_exposed(make_spec()) == ()
