#!/usr/bin/env bash
# Benchmark arc: task arc_easy of lm-eval, unmodified.
# Each pass runs it against a gateway. By hand, against any OpenAI-compatible server:
#   EVALHPC_BASE_URL=http://HOST:PORT/v1 EVALHPC_OUTPUT_DIR=/a/folder bash harness-arc.sh
# EVALHPC_API_KEY is sent as bearer token, where the server wants one.
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

# The site's own lines; once, however many scripts of this run start one another.
if [[ ${EVALHPC_ENVIRONMENT:-} != demo-0000000000 ]]; then
set +u
. /etc/profile.d/modules.sh
module load cuda/12
set -u
fi
{ set +x; } 2>/dev/null # a trace would show keys
export EVALHPC_ENVIRONMENT=demo-0000000000
export EVALHPC_PYTHON=/opt/evalhpc/bin/python
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
export GREETING='it'"'"'s $HOME'
export HF_HOME='/scratch/hf cache'
export HF_HUB_OFFLINE=1
# Their values are masked in logs.
export EVALHPC_SECRET_NAMES='HF_TOKEN JUDGE_LOGIN'

# Secrets are read here, on the node, and written nowhere.
if [[ ${EVALHPC_SECRETS:-} != demo-0000000000 ]]; then
{ set +x; } 2>/dev/null # a trace would show them
secrets=$(
  "$EVALHPC_PYTHON" -m evalhpc node secrets --file='/home/me/my secrets.env' --command=site-secrets --command='--all of $them' HF_TOKEN JUDGE_LOGIN
)
eval "$secrets"
unset secrets
fi
export EVALHPC_SECRETS=demo-0000000000

# --- harness -----------------------------------------------------------------------------------
: "${EVALHPC_BASE_URL:?the base URL of an OpenAI-compatible API, ending in /v1}"
: "${EVALHPC_OUTPUT_DIR:?the folder for the output}"
mkdir -p "$EVALHPC_OUTPUT_DIR"
export EVALHPC_HARNESS_PYTHON=/opt/evalhpc/bin/python
PATH="${EVALHPC_HARNESS_PYTHON%/*}:$PATH" # its own programs stand beside its interpreter

case "$EVALHPC_BASE_URL" in
*[\"\\]* | *[[:cntrl:][:space:]]*)
    echo "EVALHPC_BASE_URL is not a plain URL: $EVALHPC_BASE_URL" >&2
    exit 2
    ;;
esac
cd "$EVALHPC_OUTPUT_DIR" # lm-eval records the git revision of the folder that it runs in
tasks=/shared/runs/demo/tasks/arc
model_args='{"max_length":8192,"max_retries":3,"model":"tiny","num_concurrent":16,"seed":1234,"timeout":86400,"tokenizer":"/models/tiny","tokenizer_backend":"huggingface"}'
model=local-completions
url="$EVALHPC_BASE_URL/completions"
# shellcheck disable=SC2054 # a comma here belongs to a value
arguments=(
    --model "$model"
    --model_args "${model_args%\}},\"base_url\":\"$url\"}"
    --tasks arc_easy
    --include_path "$tasks"
    --output_path "$PWD"
    --log_samples
    --seed 1234
)

export OPENAI_API_KEY="${EVALHPC_API_KEY:-}"
export PYTHONHASHSEED=1234 # set and dictionary order decide some prompts
export PYTHONSAFEPATH=1                       # a file here must not shadow one of the harness
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-1}"
export HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 TOKENIZERS_PARALLELISM=false
unset LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER # it would change what it writes, as would the next
[ -n "${EVALHPC_STAGING:-}" ] || unset HF_TOKEN
scratch="$(mktemp -d)"
if [ -e "$tasks/data.jsonl" ]; then
    # The run brings the data along, so no shared (and lockable) data set cache is needed.
    export HF_DATASETS_CACHE="$scratch"
fi
status=0
"$EVALHPC_HARNESS_PYTHON" -m lm_eval run "${arguments[@]}" || status=$?
rm -rf "$scratch"
exit "$status"
