"""run.yaml: what is written is read back, and an edited file is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalhpc.config.run_file import dump_run, read_run
from evalhpc.config.yaml_files import dump_yaml
from evalhpc.errors import ConfigError, IntegrityError
from evalhpc.models.runspec import FORMAT_VERSION
from tests.factories import make_spec


@settings(deadline=None)
@given(
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.floats(
        allow_nan=False, allow_infinity=False) | st.text(max_size=8), max_size=3),
)  # fmt: skip
def test_a_spec_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, task: str, model_args: dict[str, object]
) -> None:
    """Any text and any parameter survives, and so does the hash."""
    benchmark = {"name": "a", "harness": "h", "task": task, "params": {"model_args": model_args}}
    spec = make_spec(benchmarks=[benchmark])
    path = tmp_path_factory.getbasetemp() / "run.yaml"
    path.write_text(dump_run(spec))
    assert read_run(path) == spec
    assert read_run(path).digest() == spec.digest()


def test_the_text_is_the_same_every_time() -> None:
    """Two submissions of one spec write the same bytes."""
    assert dump_run(make_spec()) == dump_run(make_spec())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 1234", "seed: 1235"),
        ("name: demo", "name: other"),
        ("spec:", "spec:\n  more: 1"),
    ],
)
def test_an_edited_file_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """Changed, added or misspelt: answers were recorded for what stood there before."""
    path = tmp_path / "run.yaml"
    text = dump_run(make_spec())
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(IntegrityError, match="does not match its hash"):
        read_run(path)


def test_comments_and_order_may_change(tmp_path: Path) -> None:
    """The hash is of the content, so a reformatted file is still the same run."""
    path = tmp_path / "run.yaml"
    path.write_text("# mine\n" + dump_run(make_spec()) + "# end\n")
    assert read_run(path) == make_spec()


@pytest.mark.parametrize(("version", "age"), [(FORMAT_VERSION + 1, "a newer"), (0, "an older")])
def test_another_format_is_refused_by_name(tmp_path: Path, version: int, age: str) -> None:
    """A newer file may hold keys that mean something else: neither hash nor keys are looked at."""
    path = tmp_path / "run.yaml"
    path.write_text(f"hash: x\nspec: {{format_version: {version}, novelty: 1}}\n")
    with pytest.raises(ConfigError, match=f"made by {age} evalhpc"):
        read_run(path)


@pytest.mark.parametrize("text", ["a: 1\n", "hash: 1\nspec: {}\n", "hash: x\nspec: [1]\n"])
def test_another_file_is_not_taken_for_a_run(tmp_path: Path, text: str) -> None:
    """The user named a wrong folder or file."""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="`hash` and `spec` are missing"):
        read_run(path)


def test_settings_of_another_version_are_no_damage(tmp_path: Path) -> None:
    """A file that is as it was written, with a key that this version does not know, says who."""
    data = make_spec().model_dump(mode="json") | {"evalhpc_version": "9.1", "novelty": 1}
    digest = hashlib.sha256(
        json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml({"hash": digest, "spec": data}))
    with pytest.raises(ConfigError, match=r"made by evalhpc 9\.1, and this is .*novelty"):
        read_run(path)
