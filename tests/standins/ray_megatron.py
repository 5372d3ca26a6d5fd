"""A Megatron model on Ray Serve as NVIDIA's Export-Deploy has it, with the errors it is known for.

One replica of the deployment makes an actor per rank, each on one "GPU" of Ray's books, and asks
rank 0. It does not wait for them, so that /v1/health is happy before the weights are loaded and
after the model died. Requests that come together are one batch, and a batch has the settings of its
first request. For tests that break something in mid-run: with STANDIN_DELAY in the environment a
batch takes so many seconds longer, and none begins while there is a file STANDIN_HOLD.
"""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import fastapi
import ray
from openai_quirks import Request, inputs_of, reply
from rank_actor import ModelWorker, free_port
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("standin")
app = fastapi.FastAPI()
DELAY, HOLD = float(os.environ.get("STANDIN_DELAY", "0")), os.environ.get("STANDIN_HOLD", "")


async def _pause() -> None:
    await asyncio.sleep(DELAY)
    while HOLD and Path(HOLD).exists():
        await asyncio.sleep(0.1)


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 8}, max_ongoing_requests=32)
@serve.ingress(app)
class MegatronRayDeployable:
    """One replica of the model."""

    def __init__(
        self,
        *,
        checkpoint: str,
        num_gpus: int,
        tensor: int,
        pipeline: int,
        model_id: str,
        max_batch_size: int,
        batch_wait_timeout_s: float,
        settings: dict[str, Any],
    ) -> None:
        self.model_id = model_id
        for batched in (self._complete, self._chat):
            batched.set_max_batch_size(max_batch_size)
            batched.set_batch_wait_timeout_s(batch_wait_timeout_s)
        address = ray.util.get_node_ip_address()
        common = {
            "world_size": num_gpus,
            "address": address,
            "port": free_port(address),
            "tensor": tensor,
            "pipeline": pipeline,
        }
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor: Any = ModelWorker  # which its decorator has made of a class
        self.workers = [
            actor.options(scheduling_strategy="DEFAULT" if rank else here).remote(
                checkpoint, {"rank": rank, **common}, settings
            )
            for rank in range(num_gpus)
        ]

    @serve.batch
    async def _complete(self, requests: list[Request]) -> list[Any]:
        first = requests[0]
        inputs = inputs_of(first, max_tokens=256, temperature=1.0)
        prompts: list[Any] = [request.get("prompt") for request in requests]
        words = [len(prompt.split()) for prompt in prompts]  # a prompt of tokens fails here
        await _pause()
        result = await self.workers[0].infer.remote(prompts, inputs, False)
        replies, limit = [], inputs["max_tokens"]
        for place, text in enumerate(result["texts"]):
            log_probs: Any = result["log_probs"][place] if "log_probs" in result else None
            if inputs["echo"]:
                log_probs.insert(0, None)  # fails without log-probabilities
            top = result["top"][place] if "top" in result else None
            choice = {
                "text": text,
                "logprobs": {"token_logprobs": log_probs, "top_logprobs": top},
            }
            replies.append(
                reply("text_completion", self.model_id, choice, words[place], text, limit)
            )
        return replies

    @serve.batch
    async def _chat(self, requests: list[Request]) -> list[Any]:
        first = requests[0]
        wanted = 1 if first.get("logprobs") == 1 else 0
        inputs = inputs_of({**first, "logprobs": wanted, "echo": False}, max_tokens=512)
        conversations = [request.get("messages", []) for request in requests]
        await _pause()
        result = await self.workers[0].infer.remote(conversations, inputs, True)
        replies, limit = [], inputs["max_tokens"]
        for place, text in enumerate(result["texts"]):
            words = sum(len(str(message).split()) for message in conversations[place])
            scores = [result["log_probs"][place]] if "log_probs" in result else None
            choice = {
                "message": {"role": "assistant", "content": text},
                "logprobs": scores and {"token_logprobs": scores, "top_logprobs": scores},
            }
            replies.append(reply("chat.completion", self.model_id, choice, words, text, limit))
        return replies

    @app.post("/v1/completions/")
    async def completions(self, request: Request) -> Any:
        """The continuation of one prompt."""
        try:
            return await self._complete(request)
        except Exception as error:
            log.exception("a completion failed")
            raise fastapi.HTTPException(500, f"Error during inference: {error}") from error

    @app.post("/v1/chat/completions/")
    async def chat_completions(self, request: Request) -> Any:
        """The next message of a conversation."""
        try:
            return await self._chat(request)
        except Exception as error:
            log.exception("a chat completion failed")
            raise fastapi.HTTPException(500, f"Error during chat completion: {error}") from error

    @app.get("/v1/models")
    async def models(self) -> Any:
        """The one model."""
        model = {"id": self.model_id, "object": "model", "created": int(time.time())}
        return {"data": [model], "object": "list"}

    @app.get("/v1/health")
    async def health(self) -> Any:
        """Proves that this replica runs, and nothing of its model."""
        return {"status": "healthy"}
