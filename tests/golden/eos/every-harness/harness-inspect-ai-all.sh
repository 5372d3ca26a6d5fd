#!/usr/bin/env bash
# Benchmark inspect-ai-all: task own.py@judged of inspect-ai, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-inspect-ai-all.sh
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
if [[ ${EVALHPC_STEP:-} != harness-inspect-ai-all.sh ]]; then
  step=(
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/inspect-ai.sqsh
    '--container-mounts=/shared/runs/demo:/shared/runs/demo,/t:/t:ro,/own tasks:/own tasks:ro'
    --no-container-mount-home
    --no-container-entrypoint
  )
  # The gateway and the model server listen on this node's loopback.
  [[ -z ${SLURMD_NODENAME:-} ]] || step+=(--nodelist="$SLURMD_NODENAME")
  export EVALHPC_STEP=harness-inspect-ai-all.sh
  exec "${step[@]}" bash /shared/runs/demo/scripts/harness-inspect-ai-all.sh "$@"
fi

# --- harness -----------------------------------------------------------------------------------
: "${EVALHPC_BASE_URL:?the base URL of an OpenAI-compatible API, ending in /v1}"
: "${EVALHPC_OUTPUT_DIR:?the folder for the output}"
mkdir -p "$EVALHPC_OUTPUT_DIR"

cd /shared/runs/demo/tasks/inspect-ai-all # it finds a file only from the file's own folder
arguments=(
    own.py@judged
    --model openai-api/evalhpc/tiny
    -M a=1
    --log-dir "$EVALHPC_OUTPUT_DIR"
    --log-format json
    --no-log-realtime
    --display plain
    --max-connections 16
    --max-retries 3
    --timeout 86400
    --limit 20
    --temperature 0.6
    --top-p 0.9
    --max-tokens 256
    --seed 7
    '--two words'
    'it'"'"'s'
)

export EVALHPC_API_KEY="${EVALHPC_API_KEY:-none}"
export PYTHONHASHSEED=7 DO_NOT_TRACK=1 PYTHONDONTWRITEBYTECODE=1
scratch="$(mktemp -d)"
# It keeps traces and unfinished samples there, one folder for all runs of a user.
export XDG_DATA_HOME="$scratch/data" XDG_CACHE_HOME="$scratch/cache"
status=0
inspect eval "${arguments[@]}" || status=$?
rm -rf "$scratch"
exit "$status"
