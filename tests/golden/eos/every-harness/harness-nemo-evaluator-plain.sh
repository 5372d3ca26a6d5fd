#!/usr/bin/env bash
# Benchmark nemo-evaluator-plain: task lm-evaluation-harness.x of nemo-evaluator, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-nemo-evaluator-plain.sh
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
if [[ ${EVALHPC_STEP:-} != harness-nemo-evaluator-plain.sh ]]; then
  step=(
    srun --overlap --export=ALL --nodes=1 --ntasks=1 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/nemo-evaluator.sqsh
    --container-mounts=/shared/runs/demo:/shared/runs/demo
    --no-container-mount-home
    --no-container-entrypoint
  )
  # The gateway and the model server listen on this node's loopback.
  [[ -z ${SLURMD_NODENAME:-} ]] || step+=(--nodelist="$SLURMD_NODENAME")
  export EVALHPC_STEP=harness-nemo-evaluator-plain.sh
  exec "${step[@]}" bash /shared/runs/demo/scripts/harness-nemo-evaluator-plain.sh "$@"
fi

# --- harness -----------------------------------------------------------------------------------
: "${EVALHPC_BASE_URL:?the base URL of an OpenAI-compatible API, ending in /v1}"
: "${EVALHPC_OUTPUT_DIR:?the folder for the output}"
mkdir -p "$EVALHPC_OUTPUT_DIR"

cd "$EVALHPC_OUTPUT_DIR"
scratch="$(mktemp -d)"
# Only the last interceptor is named: the others cache answers, or make one of equal requests.
printf '%s\n' '{"config":{"params":{"extra":{"args":"--seed 1234"},"max_retries":3,"parallelism":16,"request_timeout":86400},"type":"lm-evaluation-harness.x"},"target":{"api_endpoint":{"adapter_config":{"interceptors":[{"name":"endpoint"}],"post_eval_hooks":[]},"api_key_name":"OPENAI_API_KEY","model_id":"tiny","type":"chat"}}}' >"$scratch/run_config.yml"
url="$EVALHPC_BASE_URL/chat/completions"
arguments=(
    --run_config "$scratch/run_config.yml"
    --model_url "$url"
    --output_dir "$EVALHPC_OUTPUT_DIR"
)

export OPENAI_API_KEY="${EVALHPC_API_KEY:-none}"
export NEMO_EVALUATOR_TELEMETRY_LEVEL=0 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
export PYTHONHASHSEED=1234 # set and dictionary order decide some prompts
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-1}"
export TOKENIZERS_PARALLELISM=false
[ -n "${EVALHPC_STAGING:-}" ] || unset HF_TOKEN # it would change what the harness sends
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
