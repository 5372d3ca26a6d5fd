"""Staging: how a site runs on its login node, and what harnesses' scripts read in a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from evalhpc.errors import ConfigError
from evalhpc.models.checkpoint import Model
from evalhpc.models.image import ImageRecord, ImportWish
from evalhpc.models.site import Site
from evalhpc.workflow.images.importing import Imported
from evalhpc.workflow.stage import images as stage_images
from evalhpc.workflow.stage.runtime import login_site
from evalhpc.workflow.stage.stage import stand_in
from evalhpc.workflow.submit.wish import Wish
from tests.factories import make_spec
from tests.models.checkpoints import write_hf


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


def test_servers_of_offline_sites_look_tokenizers_up_in_what_was_staged() -> None:
    """A checkpoint may only name its tokenizer; where nodes have internet, nothing changes."""
    model = {"model_id": "m", "format": "hf", "path": "/ckpt", "url": None}
    for offline in (True, False):
        spec = make_spec(
            site={"stage_dir": "/stage", "offline": offline},
            model=model,
            deployment={"kind": "vllm"},
        )
        text = render_run(spec, "/run", load_sources(None))["server.sh"]
        assert ('export HF_HOME="$staged/huggingface"' in text) == offline
        assert ("TRANSFORMERS_OFFLINE" in text) == offline
    inside = make_spec(
        site={"stage_dir": "/stage", "offline": True, "container": {"runtime": "bwrap"}},
        model=model,
        deployment={"kind": "vllm", "image": "/i/vllm.sqsh"},
    )
    assert "--mount=/stage:/stage\n" in render_run(inside, "/run", load_sources(None))["server.sh"]


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


def test_images_of_harness_and_server_are_imported_by_the_name_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """References only: a file is there or not, and a site without a runtime needs none."""
    write_hf(tmp_path / "ckpt")
    site = tmp_path / "here.yaml"
    site.write_text(
        f"name: here\ncontainer:\n  runtime: bwrap\n  image_dir: {tmp_path}\n"
        "  registry: registry.example\n"
        "  images: {lm-eval: team/lm-eval:1, vllm: team/vllm:2, inspect-ai: x.sqsh}\n"
        "deploy: {servers: {hf: vllm}}\n"
    )
    wishes: list[ImportWish] = []

    def fake(wish: ImportWish, _environ: object) -> Imported:
        wishes.append(wish)
        record = ImageRecord(
            name=wish.name, reference="r", file="f", sha256="0" * 64, bytes=1, format="squashfs",
            tool="t", imported="", imported_by="",
        )  # fmt: skip
        return Imported(record, tmp_path / "f", fresh=True)

    monkeypatch.setattr(stage_images, "import_image", fake)
    said: list[str] = []
    wish = Wish(site=str(site), tasks="lm-eval/x,inspect-ai/y", model=str(tmp_path / "ckpt"))
    stage_images.stage_images(wish, {"HOME": str(tmp_path)}, said=said.append)
    assert [one.name for one in wishes] == ["lm-eval", "vllm"]
    assert [one.reference for one in wishes] == [
        "registry.example#team/lm-eval:1", "registry.example#team/vllm:2",
    ]  # fmt: skip
    assert said == ["image lm-eval: imported", "image vllm: imported"]
    stage_images.stage_images(
        Wish(site=str(site), tasks="lm-eval/x", sets=("container.runtime=none",)),
        {"HOME": str(tmp_path)},
    )
    assert len(wishes) == 2
