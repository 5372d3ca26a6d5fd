#!/usr/bin/env bash
# One replica of 'our model', in the foreground, with an OpenAI-compatible API.
# By hand:  EVALHPC_HOST=127.0.0.1 EVALHPC_PORT=8000 bash server.sh
# It needs a job of 2 nodes, and listens on the first one.
# This server knows no token: keep it on an address that only this node reaches.
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

# What the nodes of one start share: a new folder, and a token that is never written down.
if [[ -z ${EVALHPC_STEP:-} ]]; then
  rendezvous=/shared/runs/demo/endpoints
  mkdir -p "$rendezvous"
  EVALHPC_RENDEZVOUS=$(mktemp -d "$rendezvous/start.XXXXXX")
  RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}
  export EVALHPC_RENDEZVOUS RAY_AUTH_TOKEN
fi

# --- container ---------------------------------------------------------------------------------
# This script starts itself again on every node of the job. If one of them ends, so do all.
if [[ ${EVALHPC_STEP:-} != server.sh ]]; then
  step=(
    srun --overlap --export=ALL --nodes=2 --ntasks=2 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/server.sqsh
    '--container-mounts=/shared/runs/demo:/shared/runs/demo,/models/our model:/models/our model:ro,/datasets:/data:ro'
    --no-container-mount-home
    --no-container-entrypoint
  )
  export EVALHPC_STEP=server.sh
  exec "${step[@]}" bash /shared/runs/demo/scripts/server.sh "$@"
fi

# --- server ------------------------------------------------------------------------------------
: "${EVALHPC_HOST:?the address to listen on, e.g. 127.0.0.1}"
: "${EVALHPC_PORT:?the port to listen on}"
# Where several copies share a node, each has GPUs of its own; a step sets its own list before this.
[[ -z ${EVALHPC_GPUS:-} ]] || export CUDA_VISIBLE_DEVICES="$EVALHPC_GPUS"
# The command of deploy.options.generic.command. It serves an OpenAI-compatible API in the
# foreground at EVALHPC_HOST and EVALHPC_PORT, and may ask for EVALHPC_SERVER_TOKEN.
export EVALHPC_MODEL='/models/our model' EVALHPC_MODEL_ID='our model'
export EVALHPC_TENSOR_PARALLEL=8
export EVALHPC_PIPELINE_PARALLEL=2
export EVALHPC_NODES=2 EVALHPC_NODE_GPUS=8
command='exec ./serve "$EVALHPC_MODEL" --port "$EVALHPC_PORT" "$@"'
server=(
  bash -c "$command" generic
  '--its own'
  '$option'
)
exec "${server[@]}"
