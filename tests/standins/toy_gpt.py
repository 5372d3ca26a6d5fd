"""A toy GPT of Megatron-core on the CPU: its shape, its parallel ranks, its checkpoint's weights.

Megatron is imported within functions, since torch has to be changed before: it asks for the CUDA
device even where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

_torch: Any = torch
_torch.compile = lambda function, **_: function  # the compiler alone takes seconds to import
_cuda: Any = torch.cuda
_cuda.current_device = lambda: "cpu"
_cuda.synchronize = lambda *_: None
# Some releases of Python 3.11 save members of enumerations with it; the checkpoints are our own.
torch.serialization.add_safe_globals([getattr])

#: What Megatron-LM's arguments call it → what TransformerConfig calls it.
SHAPE = ("num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size")


class PlainAttention(torch.nn.Module):
    """Causal attention of grouped queries, in place of Megatron's fused kernels for GPUs."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        """Position × batch × heads × head size in, position × batch × hidden size out."""
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=True
        )
        return mixed.permute(2, 0, 1, 3).flatten(2)


@dataclass(frozen=True)
class Place:
    """One rank of a model: which one of how many, where they meet, and how they divide the work."""

    rank: int = 0
    world_size: int = 1
    address: str = "127.0.0.1"
    port: int = 29511
    tensor: int = 1
    pipeline: int = 1


def join_ranks(place: Place) -> None:
    """Meets the other ranks and divides them into groups."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://{place.address}:{place.port}",
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(days=7),  # the other ranks wait that long for the next request
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=place.tensor, pipeline_model_parallel_size=place.pipeline
    )
    torch.manual_seed(1234)
    if torch.cuda.is_available():
        model_parallel_cuda_manual_seed(1234)


def build(shape: dict[str, int], place: Place) -> Any:
    """This rank's part of a GPTModel in bfloat16, with random weights."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        **{name: shape[name] for name in SHAPE},
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        use_cpu_initialization=True,
        tensor_model_parallel_size=place.tensor,
        pipeline_model_parallel_size=place.pipeline,
        pipeline_dtype=torch.bfloat16,
        params_dtype=torch.bfloat16,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        gradient_accumulation_fusion=False,
    )
    layers = get_gpt_layer_local_spec(normalization="RMSNorm")
    layers.submodules.self_attention.submodules.core_attention = PlainAttention
    return GPTModel(
        config=config,
        transformer_layer_spec=layers,
        vocab_size=shape["padded_vocab_size"],
        max_sequence_length=shape["max_position_embeddings"],
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
        parallel_output=False,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    ).bfloat16()


def iteration_folder(path: Path) -> Path:
    """The folder of weights: PATH itself, or the iteration that its root names."""
    latest = path / "latest_checkpointed_iteration.txt"
    return path / f"iter_{int(latest.read_text()):07d}" if latest.exists() else path


def saved_arguments(folder: Path) -> Any:
    """The arguments that training ran with; trusted, as the checkpoint is our own."""
    from megatron.core import dist_checkpointing

    state = dist_checkpointing.load_common_state_dict(str(folder))
    if "args" not in state:
        raise ValueError(f"{folder} holds no training arguments")
    return state["args"]


def load(folder: Path, place: Place) -> Any:
    """This rank's part of the saved model, in float32, whatever parallelism it was saved with."""
    from megatron.core import dist_checkpointing

    model = build(vars(saved_arguments(folder)), place)
    state = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(folder))
    model.load_state_dict(state["model"])
    return model.float().eval().requires_grad_(False)


def forward(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Batch × position × vocabulary on every rank, whose stages follow one another."""
    from megatron.core import parallel_state as state

    batch, length = ids.shape
    if not state.is_pipeline_first_stage():
        hidden = torch.empty(length, batch, model.config.hidden_size)
        torch.distributed.recv(hidden, state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden)
    result: torch.Tensor = model(ids, positions, None)
    if state.get_pipeline_model_parallel_world_size() == 1:
        return result
    if not state.is_pipeline_last_stage():
        torch.distributed.send(result.contiguous(), state.get_pipeline_model_parallel_next_rank())
        result = torch.empty(batch, length, model.vocab_size)
    torch.distributed.broadcast(
        result := result.contiguous(),
        state.get_pipeline_model_parallel_last_rank(),
        group=state.get_pipeline_model_parallel_group(),
    )
    return result
