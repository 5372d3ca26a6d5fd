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

# --- server ------------------------------------------------------------------------------------
: "${EVALHPC_HOST:?the address to listen on, e.g. 127.0.0.1}"
: "${EVALHPC_PORT:?the port to listen on}"
# vLLM on this job's GPUs. It reads its bearer token from VLLM_API_KEY.
if [[ -n ${EVALHPC_SERVER_TOKEN:-} ]]; then
  export VLLM_API_KEY="$EVALHPC_SERVER_TOKEN"
fi
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
server=(
  vllm serve /models/tiny
  --served-model-name=tiny
  --host="$EVALHPC_HOST" --port="$EVALHPC_PORT"
  --tensor-parallel-size=8
  --max-model-len=8192
  --dtype=bfloat16
  --chat-template
  '/a b/chat.jinja'
)
exec "${server[@]}"
