"""Writes a real Megatron-core checkpoint of a toy GPT, on the CPU, in an environment of its own.

    .venv/harnesses/megatron/bin/python tests/standins/make_megatron_checkpoint.py --tp 2 OUT

scripts/test makes that environment. The result has the layout of Megatron-LM's torch_dist:
OUT/latest_checkpointed_iteration.txt and OUT/iter_0000010/; with --tokenizer also OUT/tokenizer/,
which transformers reads: byte-level, token id = byte, with a chat template.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

import byte_tokenizer
import torch
import toy_gpt

ITERATION = 10
SHAPE = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "ffn_hidden_size": 128,
    "padded_vocab_size": byte_tokenizer.VOCABULARY,
}


def main() -> None:
    """Is rank 0, and starts a process for each other one."""
    parser = argparse.ArgumentParser(description="Write a toy Megatron checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument(
        "--common-state",
        action="store_true",
        help="Write no common.pt, as megatron-core 0.19 does.",
    )
    parser.add_argument("--tokenizer", action="store_true", help="Write OUT/tokenizer too.")
    parser.add_argument("--context", type=int, default=128, help="Longest text, in tokens.")
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args()
    if options.tokenizer:
        byte_tokenizer.write_folder(options.out / "tokenizer")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_rank, args=(rank, options)) for rank in range(1, options.tp)]
    for process in others:
        process.start()
    _rank(0, options)
    for process in others:
        process.join()
    if any(process.exitcode for process in others):
        sys.exit("a rank failed")


def _rank(rank: int, options: argparse.Namespace) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing import ShardedObject

    place = toy_gpt.Place(rank, options.tp, port=options.port, tensor=options.tp)
    toy_gpt.join_ranks(place)
    arguments = _arguments(options)
    model = toy_gpt.build(vars(arguments), place)
    common = {"args": arguments, "checkpoint_version": 3.0, "iteration": ITERATION}
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


def _arguments(options: argparse.Namespace) -> argparse.Namespace:
    """What Megatron-LM's command line leaves in common.pt, of which a few names matter."""
    from megatron.core.transformer.enums import AttnBackend

    return argparse.Namespace(
        **SHAPE,
        group_query_attention=True,
        vocab_size=250,
        max_position_embeddings=options.context,
        seq_length=options.context,
        tensor_model_parallel_size=options.tp,
        pipeline_model_parallel_size=1,
        params_dtype=torch.bfloat16,
        attention_backend=AttnBackend.auto,
        tokenizer_type="HuggingFaceTokenizer",
        tokenizer_model=(
            str(options.out.resolve() / "tokenizer")
            if options.tokenizer
            else "/models/toy-tokenizer"
        ),
        bf16=True,
    )


if __name__ == "__main__":
    main()
