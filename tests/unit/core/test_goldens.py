"""Every shipped site and variant renders, byte for byte, the scripts kept in tests/golden."""

from __future__ import annotations

import shutil

import pytest

from tests.golden_variants import GOLDEN, VARIANTS, render_variant, shipped_sites

CASES = [(site, variant) for site, variants in VARIANTS.items() for variant in variants]


@pytest.mark.parametrize(("site", "variant"), CASES, ids="/".join)
def test_scripts_are_those_of_the_golden_folder(
    site: str, variant: str, request: pytest.FixtureRequest
) -> None:
    """A change of any rendered byte shows up as a diff of a real file."""
    folder = GOLDEN / site / variant
    scripts = render_variant(site, variant)
    if request.config.getoption("--update-golden"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in scripts.items():
            (folder / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == scripts


def test_no_golden_folder_is_left_behind() -> None:
    """A folder whose variant is gone would go on being linted for nothing."""
    folders = {(path.parent.name, path.name) for path in GOLDEN.glob("*/*") if path.is_dir()}
    folders = {(site, variant) for site, variant in folders if site != "deployments"}
    assert folders == set(CASES)


def test_every_shipped_site_has_goldens() -> None:
    """A new site file needs its variants here."""
    assert sorted(VARIANTS) == shipped_sites()
