#!/usr/bin/env bash
# One replica of 'our model', in the foreground, with an OpenAI-compatible API.
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
    --container-image=/images/server.sqsh
    '--container-mounts=/shared/runs/demo:/shared/runs/demo,/models/our model:/models/our model:ro,/datasets:/data:ro'
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
# Where several copies share a node, each has GPUs of its own; a step sets its own list before this.
[[ -z ${EVALHPC_GPUS:-} ]] || export CUDA_VISIBLE_DEVICES="$EVALHPC_GPUS"
# SGLang on this job's GPUs. It asks for EVALHPC_SERVER_TOKEN.
# As an argument its key would be seen by all users of the node, so it becomes one in Python only.
launcher='
import os, runpy, sys
token = os.environ.get("EVALHPC_SERVER_TOKEN")
sys.argv += ["--api-key", token] if token else []
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
'
server=(
  python3 -c "$launcher"
  --model-path='/models/our model'
  --served-model-name='our model'
  --host="$EVALHPC_HOST" --port="$EVALHPC_PORT"
  --tp-size=8
  --context-length=8192
  '--its own'
  '$option'
)
exec "${server[@]}"
