#!/usr/bin/env bash
# Benchmark nemo-evaluator-all: task lm-evaluation-harness.x of nemo-evaluator, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-nemo-evaluator-all.sh
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
export EVALHPC_HARNESS_PYTHON='/envs/nemo evaluator/bin/python'
PATH="${EVALHPC_HARNESS_PYTHON%/*}:$PATH" # its own programs stand beside its interpreter

cd "$EVALHPC_OUTPUT_DIR"
scratch="$(mktemp -d)"
# Only the last interceptor is named: the others cache answers, or make one of equal requests.
printf '%s\n' '{"config":{"params":{"extra":{"a":1,"args":"--seed 7 --include_path '"'"'/shared/runs/demo/tasks/nemo-evaluator-all'"'"'","num_fewshot":5,"tokenizer":"/t","tokenizer_backend":"huggingface"},"limit_samples":20,"max_new_tokens":256,"max_retries":3,"parallelism":16,"request_timeout":86400,"temperature":0.6,"top_p":0.9},"type":"lm-evaluation-harness.x"},"target":{"api_endpoint":{"adapter_config":{"interceptors":[{"name":"endpoint"}],"post_eval_hooks":[]},"api_key_name":"OPENAI_API_KEY","model_id":"tiny","type":"completions"}}}' >"$scratch/run_config.yml"
url="$EVALHPC_BASE_URL/completions"
arguments=(
    --run_config "$scratch/run_config.yml"
    --model_url "$url"
    --output_dir "$EVALHPC_OUTPUT_DIR"
    '--two words'
    'it'"'"'s'
)

export OPENAI_API_KEY="${EVALHPC_API_KEY:-none}"
export NEMO_EVALUATOR_TELEMETRY_LEVEL=0 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
export PYTHONHASHSEED=7 # set and dictionary order decide some prompts
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-1}"
export TOKENIZERS_PARALLELISM=false
[ -n "${EVALHPC_STAGING:-}" ] || unset HF_TOKEN # it would change what the harness sends
# The run brings its data along, so no shared (and lockable) data set cache is needed.
export HF_DATASETS_CACHE="$scratch/datasets"
# By itself, its adapter takes the first free port from 3825 on, and of two that look at the same
# time one would send its requests through the other's, to another run's model.
for _ in {1..50}; do
    [ -z "${ADAPTER_PORT:-}" ] || break
    port=$((10000 + RANDOM % 22000)) # below what the kernel gives out
    (: <>"/dev/tcp/localhost/$port") 2>/dev/null || export ADAPTER_PORT=$port
done
status=0
nemo-evaluator run_eval "${arguments[@]}" || status=$?
rm -rf "$scratch"
exit "$status"
