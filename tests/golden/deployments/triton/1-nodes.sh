#!/usr/bin/env bash
# One replica of 'our model', in the foreground, with an OpenAI-compatible API.
# By hand:  EVALHPC_HOST=127.0.0.1 EVALHPC_PORT=8000 bash server.sh
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
# A Megatron checkpoint in its own framework, on Triton: Export-Deploy's script, unmodified.
script=/opt/Export-Deploy/scripts/deploy/nlp/deploy_inframework_triton.py
[[ -r $script ]] || { echo "$script is not here: this needs a NeMo container" >&2; exit 1; }
has() { grep -q -e "$1" "$script"; }
checkpoint=--megatron_checkpoint
has "$checkpoint" || checkpoint=--nemo_checkpoint
free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# Its front watches the files below the folder that it starts in, for changes of its own code.
cd "$(mktemp -d)"
head_ip=127.0.0.1
head_port=$(free_port)
# FastAPI in front of Triton finds it by these.
export TRITON_HTTP_ADDRESS=127.0.0.1
TRITON_PORT=$(free_port)
export TRITON_PORT
server=(
  python -m torch.distributed.run
  --nnodes=1 --nproc-per-node=8 --node-rank="${node_rank:-0}"
  --master-addr="$head_ip" --master-port="$head_port"
  "$script"
  "$checkpoint" '/models/our model'
  --triton_model_name 'our model'
  --server_address "$EVALHPC_HOST" --server_port "$EVALHPC_PORT"
  --triton_http_address "$TRITON_HTTP_ADDRESS" --triton_port "$TRITON_PORT"
  --num_gpus 8 --num_nodes 1
  --tensor_model_parallel_size 8
  --pipeline_model_parallel_size 1
  --context_parallel_size 1
  --expert_model_parallel_size 1
  --max_batch_size 1
  --inference_max_seq_length 8192
  '--its own'
  '$option'
)
has --model_type && server+=(--model_type gpt)
exec "${server[@]}"
