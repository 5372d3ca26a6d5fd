#!/usr/bin/env bash
# One replica of tiny, in the foreground, with an OpenAI-compatible API.
# By hand:  EVALHPC_HOST=127.0.0.1 EVALHPC_PORT=8000 bash server.sh
# With EVALHPC_SERVER_TOKEN set, requests must carry it as a bearer token.
set -euo pipefail
umask 077
ulimit -c 0 # a core file would hold the job's keys

# --- environment -------------------------------------------------------------------------------
# A job starts without the submitting shell's variables (--export=NONE), but sbatch passes on any
# SLURM_* of a job that it was called in. These would change how the steps of this one run.
unset "${!SLURM_CPU_BIND@}" "${!SLURM_MEM_BIND@}" "${!SLURM_GPU_BIND@}" "${!SRUN_@}"
unset SLURM_DISTRIBUTION SLURM_HINT SLURM_TRES_PER_TASK SLURM_EXPORT_ENV
# Where Slurm could not load the user's login environment, the little that programs rely on.
[[ -n ${HOME:-} ]] || HOME=~
[[ -n ${USER:-} ]] || USER=$(id -un 2>/dev/null || id -u)
export HOME USER PATH
export EVALHPC_ENVIRONMENT=demo-0000000000
export EVALHPC_PYTHON=/opt/evalhpc/bin/python
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

# --- container ---------------------------------------------------------------------------------
# This script starts itself again inside the image.
if [[ ${EVALHPC_STEP:-} != server.sh ]]; then
  step=(
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/vllm.sqsh
    '--container-mounts=/shared/runs/demo:/shared/runs/demo,/models/tiny:/models/tiny:ro'
    --no-container-mount-home
    --no-container-entrypoint
  )
  # The gateway and the model server listen on this node's loopback.
  [[ -z ${SLURMD_NODENAME:-} ]] || step+=(--nodelist="$SLURMD_NODENAME")
  export EVALHPC_STEP=server.sh
  exec "${step[@]}" bash /shared/runs/demo/scripts/server.sh "$@"
fi

# --- server ------------------------------------------------------------------------------------
: "${EVALHPC_HOST:?the address to listen on, e.g. 127.0.0.1}"
: "${EVALHPC_PORT:?the port to listen on}"
# vLLM on this job's GPUs. It reads its bearer token from VLLM_API_KEY, for routes below /v1; others
# generate as well (/invocations), so a class of ours guards them all.
middleware=()
if [[ -n ${EVALHPC_SERVER_TOKEN:-} ]]; then
  export VLLM_API_KEY="$EVALHPC_SERVER_TOKEN"
  guard=/shared/runs/demo/endpoints/guard
  mkdir -p "$guard"
  part=$(mktemp "$guard/part.XXXXXX")
  cat >"$part" <<'PYTHON'
import hmac
import os


class Guard:
    """Asks for the token on every route but /health."""

    def __init__(self, app):
        self.app = app
        self.wanted = b"Bearer " + os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan" or scope.get("path") == "/health":
            return await self.app(scope, receive, send)
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self.wanted):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": 401, "headers": [kind]})
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
PYTHON
  mv "$part" "$guard/evalhpc_guard.py"
  export PYTHONPATH="$guard${PYTHONPATH:+:$PYTHONPATH}"
  middleware=(--middleware=evalhpc_guard.Guard)
fi
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
server=(
  vllm serve /models/tiny
  --served-model-name=tiny
  --host="$EVALHPC_HOST" --port="$EVALHPC_PORT" "${middleware[@]}"
  --tensor-parallel-size=8
  --max-model-len=8192
  --dtype=bfloat16
  --chat-template
  '/a b/chat.jinja'
)
exec "${server[@]}"
