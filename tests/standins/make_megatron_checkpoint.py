"""Writes a real Megatron-core checkpoint of a toy GPT, on the CPU, in an environment of its own.

    python -m venv /var/tmp/megatron
    /var/tmp/megatron/bin/pip install torch==2.13.0 megatron-core==0.16.1 psutil numpy
    /var/tmp/megatron/bin/python tests/standins/make_megatron_checkpoint.py --tp 2 OUT

`psutil` is needed, or the save hangs. The result has the layout of Megatron-LM's torch_dist:
OUT/latest_checkpointed_iteration.txt and OUT/iter_0000010/. Megatron is imported within functions,
since torch has to be changed before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

# Megatron asks for the device even where there is none; these come before its import.
import torch

_cuda: Any = torch.cuda
_cuda.current_device = lambda: "cpu"
_cuda.synchronize = lambda *_: None

ITERATION = 10


def main() -> None:
    """Starts one process per rank."""
    parser = argparse.ArgumentParser(description="Write a toy Megatron checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument(
        "--common-state",
        action="store_true",
        help="Write no common.pt, as megatron-core 0.19 does.",
    )
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, options)) for rank in range(options.tp)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    if any(process.exitcode for process in ranks):
        sys.exit("a rank failed")


def _rank(rank: int, options: argparse.Namespace) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing import ShardedObject

    _distributed(rank, options)
    model = _model(options.tp)
    common = {"args": _arguments(options.tp), "checkpoint_version": 3.0, "iteration": ITERATION}
    weights = {"model": model.sharded_state_dict()}
    if options.common_state:
        replica = rank  # 0 is the one that is saved
        state = {**weights, "common": ShardedObject("common_state", common, (1,), (0,), replica)}
    else:
        state = {**weights, **common}
    folder = options.out / f"iter_{ITERATION:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.distributed.barrier()
    dist_checkpointing.save(state, str(folder))
    torch.distributed.barrier()
    if rank == 0:
        if options.common_state:
            (folder / "common.pt").unlink()  # 0.16 writes an empty one
        (options.out / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def _distributed(rank: int, options: argparse.Namespace) -> None:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=options.tp)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=options.tp)
    torch.manual_seed(1234)
    if torch.cuda.is_available():
        model_parallel_cuda_manual_seed(1234)


def _model(tp: int) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=8,
        num_query_groups=4,
        ffn_hidden_size=128,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        use_cpu_initialization=True,
        tensor_model_parallel_size=tp,
        pipeline_dtype=torch.bfloat16,
        params_dtype=torch.bfloat16,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
    )
    return GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=256,
        max_sequence_length=128,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    ).bfloat16()


def _arguments(tp: int) -> argparse.Namespace:
    """What Megatron-LM's command line leaves in common.pt, of which a few names matter."""
    from megatron.core.transformer.enums import AttnBackend

    return argparse.Namespace(
        num_layers=2,
        hidden_size=64,
        num_attention_heads=8,
        num_query_groups=4,
        group_query_attention=True,
        ffn_hidden_size=128,
        padded_vocab_size=256,
        vocab_size=250,
        max_position_embeddings=128,
        seq_length=128,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=1,
        params_dtype=torch.bfloat16,
        attention_backend=AttnBackend.auto,
        tokenizer_type="HuggingFaceTokenizer",
        tokenizer_model="/models/toy-tokenizer",
        bf16=True,
    )


if __name__ == "__main__":
    main()
