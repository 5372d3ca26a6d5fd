"""Every server × nodes × container runtime renders the script kept in tests/golden/deployments."""

from __future__ import annotations

import pytest

from tests.deployment_goldens import FOLDER, cases, files


@pytest.mark.parametrize(("kind", "nodes"), cases())
def test_server_scripts_are_those_of_the_golden_folder(
    kind: str, nodes: int, request: pytest.FixtureRequest
) -> None:
    """Whole for Pyxis; for the other runtimes what differs from that."""
    folder = FOLDER / kind
    if request.config.getoption("--update-golden"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files(kind, nodes).items():
            (folder / name).write_text(text, encoding="utf-8")
    for name, text in files(kind, nodes).items():
        assert (folder / name).read_text(encoding="utf-8") == text, name


def test_no_golden_file_is_left_behind() -> None:
    """One whose deployment is gone would go on being linted for nothing."""
    kept = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*") if path.is_file()}
    assert kept == {f"{kind}/{name}" for kind, nodes in cases() for name in files(kind, nodes)}
