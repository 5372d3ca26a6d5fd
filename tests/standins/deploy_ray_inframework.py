"""Stands in for the script of that name in NVIDIA's NeMo container: same flags, routes and faults.

    ray start --head --num-gpus 1 --num-cpus 8
    python tests/standins/deploy_ray_inframework.py --megatron_checkpoint CHECKPOINT --num_gpus 1

The original is Export-Deploy's scripts/deploy/nlp/deploy_ray_inframework.py. This one serves a toy
model of Megatron-core (make_megatron_checkpoint.py writes it) on the CPU, with real ranks on real
Ray Serve, on as many nodes as the Ray cluster has. A "GPU" is what `ray start --num-gpus` says.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import signal
import sys
from typing import Any

import ray
from ray import serve
from ray_megatron import MegatronRayDeployable

log = logging.getLogger("standin")


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    options = parser().parse_args()
    _join_ray(options)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _stop(0))
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        serve.run(_deployment(options), name=options.model_id)
        log.info("Megatron model deployed successfully at %s:%s", options.host, options.port)
        while True:
            signal.pause()
    except Exception:
        log.exception("Error during deployment")
        _stop(1)


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults; what has no meaning for the toy is read and ignored."""
    result = argparse.ArgumentParser(description="Deploy a Megatron model using Ray")
    flag = result.add_argument
    flag("--megatron_checkpoint", required=True)
    flag("--num_gpus", type=int, default=1, help="of all nodes together")
    flag("--num_replicas", type=int, default=1)
    flag("--tensor_model_parallel_size", type=int, default=1)
    flag("--pipeline_model_parallel_size", type=int, default=1)
    flag("--context_parallel_size", type=int, default=1)
    flag("--expert_model_parallel_size", type=int, default=1)
    flag("--expert_tensor_parallel_size", type=int, default=1)
    flag("--sequence_parallel", action="store_true")
    flag("--model_id", default="nemo-model")
    flag("--host", default="0.0.0.0")
    flag("--port", type=int, default=1024)
    flag("--num_cpus", type=int, default=None)
    flag("--num_cpus_per_replica", type=float, default=8)
    flag("--include_dashboard", action="store_true")
    flag("--cuda_visible_devices", default=None)
    flag("--max_batch_size", type=int, default=32)
    flag("--batch_wait_timeout_s", type=float, default=0.01)
    flag("--inference_max_seq_length", type=int, default=4096)
    flag("--enable_cuda_graphs", action="store_true")
    flag("--enable_flash_decode", action="store_true")
    flag("--legacy_ckpt", action="store_true")
    flag("--random_seed", type=int, default=None)
    flag("--micro_batch_size", type=int, default=None)
    flag("--model_type", choices=("gpt", "mamba"), default="gpt")
    flag("--runtime_env", type=json.loads, default={})
    return result


def _join_ray(options: argparse.Namespace) -> None:
    """Joins the Ray of this machine, and where there is none starts one, of one node."""
    environment = options.runtime_env
    if options.cuda_visible_devices is not None:
        variables = {"CUDA_VISIBLE_DEVICES": options.cuda_visible_devices}
        environment = {**environment, "env_vars": {**environment.get("env_vars", {}), **variables}}
    common: dict[str, Any] = {"ignore_reinit_error": True, "runtime_env": environment or None}
    try:
        ray.init(address="auto", **common)
    except ConnectionError:
        log.info("No existing Ray cluster found. Starting a local Ray cluster...")
        ray.init(
            num_cpus=options.num_cpus or multiprocessing.cpu_count(),
            num_gpus=options.num_gpus,
            include_dashboard=options.include_dashboard,
            **common,
        )


def _deployment(options: argparse.Namespace) -> Any:
    deployment: Any = MegatronRayDeployable  # which its decorator has made of a class
    return deployment.options(
        num_replicas=options.num_replicas,
        ray_actor_options={"num_cpus": options.num_cpus_per_replica},
    ).bind(
        checkpoint=options.megatron_checkpoint,
        num_gpus=options.num_gpus // options.num_replicas,
        tensor=options.tensor_model_parallel_size,
        pipeline=options.pipeline_model_parallel_size,
        model_id=options.model_id,
        max_batch_size=options.max_batch_size,
        batch_wait_timeout_s=options.batch_wait_timeout_s,
        settings={"longest": options.inference_max_seq_length, "seed": options.random_seed},
    )


def _stop(code: int) -> None:
    serve.shutdown()
    ray.shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
