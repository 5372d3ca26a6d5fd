#!/usr/bin/env bash
# Benchmark command-all: task own.py of command, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-command-all.sh
# EVALHPC_API_KEY is sent as bearer token, where the server wants one.
set -euo pipefail
umask 077
ulimit -c 0 # a core file would hold the job's keys

# --- environment -------------------------------------------------------------------------------
# Where Slurm could not load the user's login environment, the little that programs rely on.
[[ -n ${HOME:-} ]] || HOME=~
[[ -n ${USER:-} ]] || USER=$(id -un 2>/dev/null || id -u)
export HOME USER PATH
export EVALHPC_ENVIRONMENT=demo-0000000000
export EVALHPC_PYTHON=/opt/evalhpc/bin/python
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 MKL_NUM_THREADS=2

# --- harness -----------------------------------------------------------------------------------
: "${EVALHPC_BASE_URL:?the base URL of an OpenAI-compatible API, ending in /v1}"
: "${EVALHPC_OUTPUT_DIR:?the folder for the output}"
mkdir -p "$EVALHPC_OUTPUT_DIR"
export EVALHPC_HARNESS_PYTHON=/opt/evalhpc/bin/python
PATH="${EVALHPC_HARNESS_PYTHON%/*}:$PATH" # its own programs stand beside its interpreter

cd "$EVALHPC_OUTPUT_DIR"
export EVALHPC_TASKS_DIR=/shared/runs/demo/tasks/command-all
export EVALHPC_TASK=own.py
export EVALHPC_MODEL=tiny
export EVALHPC_SEED=7
export EVALHPC_PARALLELISM=16
export EVALHPC_LIMIT=20
# What clients of OpenAI's library look for.
export OPENAI_BASE_URL="$EVALHPC_BASE_URL" OPENAI_API_BASE="$EVALHPC_BASE_URL"
export OPENAI_API_KEY="${EVALHPC_API_KEY:-none}"
export PYTHONHASHSEED=7
program="$EVALHPC_TASKS_DIR/$EVALHPC_TASK"
if [ ! -e "$program" ]; then
    command=("$EVALHPC_TASK")
elif [[ $program == *.py ]]; then
    command=("$EVALHPC_HARNESS_PYTHON" "$program")
elif [ -x "$program" ]; then
    command=("$program")
else
    command=(bash "$program")
fi
exec "${command[@]}" '--two words' 'it'"'"'s'
