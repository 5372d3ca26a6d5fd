"""Staging: how a site runs on its login node, and what harnesses' scripts read in a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from evalhpc.errors import ConfigError
from evalhpc.models.checkpoint import Model
from evalhpc.models.site import Site
from evalhpc.workflow.stage import stand_in
from evalhpc.workflow.stage_runtime import login_site
from tests.factories import make_spec


def harness_script(**site: Any) -> str:
    """The script of a benchmark at such a site."""
    spec = make_spec(site=site)
    return render_run(spec, "/run", load_sources(None))["harness-arc.sh"]


def test_harnesses_read_what_was_staged_and_nothing_else() -> None:
    """Caches and offline variables come before the harness, and after the site's own variables."""
    text = harness_script(
        stage_dir="/s/st age", environment={"variables": {"HF_HOME": "/elsewhere"}}
    )
    assert "staged='/s/st age'" in text
    order = [
        "export HF_HOME=/elsewhere", 'export HF_HOME="$staged/huggingface"',
        'export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"', "-m lm_eval",
    ]  # fmt: skip
    places = [text.index(line) for line in order]
    assert places == sorted(places)
    assert "TRANSFORMERS_OFFLINE" in text
    assert "staged" not in harness_script()


def test_an_image_sees_the_staged_data() -> None:
    """Writable, as libraries lock what they read."""
    spec = make_spec(
        site={"stage_dir": "/stage", "container": {"runtime": "bwrap"}},
        harnesses={"lm-eval": {"image": "/i/lm-eval.sqsh"}},
    )
    text = render_run(spec, "/run", load_sources(None))["harness-arc.sh"]
    assert "--mount=/stage:/stage\n" in text


def test_pyxis_gives_way_to_what_starts_images_without_a_job(tmp_path: Path) -> None:
    """Its own options go with it; where there is nothing else, the error names what would do."""
    site = Site.model_validate(
        {"name": "s", "container": {"runtime": "pyxis", "options": ["--container-remap-root"]}}
    )
    with pytest.raises(ConfigError, match="no program of this machine") as caught:
        login_site(site, {"PATH": str(tmp_path)})
    assert "apptainer" in caught.value.hint
    (tmp_path / "bwrap").touch(mode=0o755)
    here = login_site(site, {"PATH": str(tmp_path)}).container
    assert (here.runtime, here.options) == ("bwrap", ())
    plain = Site.model_validate({"name": "s"})
    assert login_site(plain, {}) is plain


def test_the_model_is_replaced_by_its_name_and_tokenizer() -> None:
    """No weights are needed to stage, and no model at all for most tasks."""
    model = Model(model_id="m", format="hf", path="/ckpt", tokenizer="/ckpt", bytes=9)
    there = stand_in(model)
    assert (there.model_id, there.tokenizer, there.path) == ("m", "/ckpt", None)
    assert stand_in(None).tokenizer is None
