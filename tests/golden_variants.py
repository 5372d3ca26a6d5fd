"""The runs whose scripts are kept in tests/golden: every shipped site with its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalhpc.config.sites import load_site
from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from evalhpc.models.runspec import RunSpec
from evalhpc.resources import resource_dir
from tests.factories import make_spec, merged

GOLDEN = Path(__file__).parent / "golden"
RUN_DIR = "/shared/runs/demo"

_GGUF = {"model_id": "tiny", "format": "gguf", "path": "/models/tiny.gguf", "url": None}
_HF = {"model_id": "tiny", "format": "hf", "path": "/models/tiny", "url": None,
       "tokenizer": "/models/tiny"}  # fmt: skip
_LLAMACPP: dict[str, Any] = {"model": _GGUF, "deployment": {"kind": "llamacpp", "threads": 2}}
_HF_CPU: dict[str, Any] = {
    "model": _HF,
    "deployment": {"kind": "hf", "threads": 2, "context_length": 2048},
}
_VLLM: dict[str, Any] = {
    "model": _HF,
    "deployment": {"kind": "vllm", "tensor_parallel": 8, "context_length": 8192,
                   "extra_args": ["--dtype=bfloat16", "--chat-template", "/a b/chat.jinja"]},
}  # fmt: skip
_CHAT: dict[str, Any] = {
    "benchmarks": [
        {"name": "gsm8k", "harness": "lm-eval", "task": "gsm8k",
         "params": {"endpoint": "chat", "temperature": 0.6, "top_p": 0.9,
                    "max_new_tokens": 256, "limit": 20, "num_fewshot": 5}},
        {"name": "arc", "harness": "lm-eval", "task": "arc_easy"},
    ],
}  # fmt: skip
_EVERY_OPTION: dict[str, Any] = {
    "site": {
        "slurm": {
            "account": "nlp group", "partition": "gpu", "cpu_partition": "cpu", "qos": "high",
            "constraint": "a100&nvlink", "reservation": "maint", "comment": 'says "hi"',
            "extra": ["--exclusive", "--mail-user=Jo Doe <jo@example.org>"],
            "gpu_request": "gres", "gpu_type": "h100", "array_throttle": 2, "signal_seconds": 0,
        },
        "resources": {"shard": {"walltime": "1-00:00:00", "time_min": "2:00:00",
                                "gpus_per_node": 8, "memory": "0"}},
        "environment": {
            "setup": [". /etc/profile.d/modules.sh", "module load cuda/12"],
            "variables": {"HF_HUB_OFFLINE": "1", "GREETING": "it's $HOME"},
            "secrets": {
                "file": "/home/me/my secrets.env",
                "command": ["site-secrets", "--all of $them"],
                "names": ["HF_TOKEN", "JUDGE_LOGIN"],
            },
        },
    },
    "environment": {"HF_HOME": "/scratch/hf cache"},
}  # fmt: skip
_PYXIS: dict[str, Any] = {
    "site": {"container": {"mounts": ["/lustre:/lustre", "/datasets:/data:ro"]}},
    "harnesses": {"lm-eval": {"image": "/images/lm-eval.sqsh"}},
}

_IMAGES: dict[str, Any] = {"harnesses": {"lm-eval": {"image": "/images/lm-eval.sqsh"}}}
_VLLM_IMAGE: dict[str, Any] = merged(_VLLM, {"deployment": {"image": "/images/vllm.sqsh"}})
#: What a site of GPU nodes is rendered with: a run without a server, and one with its GPUs.
_GPU_NODES = {"endpoint": _IMAGES, "vllm": merged(_VLLM_IMAGE, _IMAGES)}
_SIF: dict[str, Any] = {"harnesses": {"lm-eval": {"image": "/images/lm-eval.sif"}}}
_APPTAINER = {
    "endpoint": _SIF,
    "vllm": merged(merged(_VLLM, _SIF), {
        "deployment": {"tensor_parallel": 4, "image": "/images/vllm.sif"}}),
}  # fmt: skip


def _in_images(runtime: str, **container: Any) -> dict[str, Any]:
    """Harness and server in images, started by `runtime`."""
    return {
        **_HF_CPU,
        "deployment": {**_HF_CPU["deployment"], "image": "/images/hf.sqsh"},
        "site": {
            "container": {"runtime": runtime, "mounts": ["/data:/data:ro", "/:/host"], **container}
        },
        "harnesses": {"lm-eval": {"image": "/images/lm-eval.sqsh"}},
    }


_OTHERS = ("nemo-evaluator", "inspect-ai", "lucebench", "command")
_EVERY_HARNESS: dict[str, Any] = {
    "harnesses": {name: {"name": name, "template": f"{name}.sh.j2", "results": name}
                  for name in _OTHERS},
    "benchmarks": [
        {"name": f"{harness}-{kind}", "harness": harness, "task": task, "params": params}
        for harness, task in zip(
            _OTHERS, ("lm-evaluation-harness.x", "own.py@judged", "gsm8k", "own.py"), strict=True
        )
        for kind, params in {
            "plain": {"endpoint": "chat"},
            "all": {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 256, "limit": 20,
                    "num_fewshot": 5, "seed": 7, "include_path": "/own tasks", "tokenizer": "/t",
                    "model_args": {"a": 1}, "extra_args": ["--two words", "it's"]},
        }.items()
    ],
}  # fmt: skip

#: site → variant → what differs from the site's file and the factory's run.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "local": {
        "endpoint": {},
        "llamacpp": _LLAMACPP,
        "hf": _HF_CPU,
        "every-harness": merged(_EVERY_HARNESS, {
            "harnesses": {"nemo-evaluator": {"python": "/envs/nemo evaluator/bin/python"}}}),
    },
    "devcluster": {
        "endpoint": _CHAT,
        "llamacpp": _LLAMACPP,
        "hf": _HF_CPU,
        "every-option": merged(_VLLM, _EVERY_OPTION),
        "gpus-per-node": merged(merged(_VLLM, _EVERY_OPTION),
                                {"site": {"slurm": {"gpu_request": "gpus-per-node"}}}),
        "bwrap": _in_images("bwrap", node_dir="$TMPDIR"),
        "charliecloud": _in_images("charliecloud", unpack=False, options=["--write-fake"]),
        "apptainer": _in_images("apptainer", options=["--rocm"]),
        "pyxis": _in_images("pyxis", options=["--container-remap-root"]),
    },
    "eos": {
        "endpoint": _PYXIS,
        "vllm": merged(merged(_VLLM, _PYXIS), {"deployment": {"image": "/images/vllm.sqsh"}}),
        "hf": merged(merged(_HF_CPU, _PYXIS), {"deployment": {"image": "/images/evalhpc.sqsh"}}),
        "every-harness": merged(_EVERY_HARNESS, {
            "harnesses": {name: {"image": f"/images/{name}.sqsh"} for name in _OTHERS}}),
        "vllm-no-container": merged(_VLLM, {"site": {"container": {"runtime": "none"}}}),
    },
    "superpod": _GPU_NODES,
    "aws-parallelcluster": _GPU_NODES,
    "hyperpod": _GPU_NODES,
    "google-a3-mega": _GPU_NODES,
    "soperator": _GPU_NODES,
    "sunk": _GPU_NODES,
    "leonardo": _APPTAINER,
    "delta": _APPTAINER,
}  # fmt: skip


def shipped_sites() -> list[str]:
    """The names of the site files that we ship; `template` is for copying."""
    names = {path.stem for path in resource_dir("site_configs").glob("*.yaml")}
    return sorted(names - {"template"})


def make_variant(site: str, variant: str) -> RunSpec:
    """The spec of one variant, with made-up names for what a site leaves to its users."""
    # With whatever it extends, and nothing of what the user who runs the tests has at home.
    data = load_site(str(resource_dir("site_configs") / f"{site}.yaml"), {}).data
    slurm: dict[str, Any] = data.get("slurm", {})
    needed = {"slurm": {key: f"my-{key}" for key in slurm.get("required", ())}}
    base = {"site": merged(data, needed), "run": data.get("run", {})}
    return make_spec(**merged(base, VARIANTS[site][variant]))


def render_variant(site: str, variant: str) -> dict[str, str]:
    """Its scripts; the hash in the run's name is blanked, for it changes with every field."""
    spec = make_variant(site, variant)
    blank = f"{spec.name}-{'0' * 10}"
    scripts = render_run(spec, RUN_DIR, load_sources(None))
    return {name: text.replace(spec.run_id, blank) for name, text in scripts.items()}
