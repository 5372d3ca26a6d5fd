#!/usr/bin/env bash
# One replica of 'our model', in the foreground, with an OpenAI-compatible API.
# By hand:  EVALHPC_HOST=127.0.0.1 EVALHPC_PORT=8000 bash server.sh
# It needs a job of 4 nodes, and listens on the first one.
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
    srun --overlap --export=ALL --nodes=4 --ntasks=4 --ntasks-per-node=1
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
# SGLang on this job's GPUs. It asks for EVALHPC_SERVER_TOKEN.
# --- several nodes: the first one publishes where it is, the others wait for that ---------------
# A new folder on the shared file system, the same on all nodes; the step's variables carry it.
: "${EVALHPC_RENDEZVOUS:?a new folder that all nodes see}"
node_rank="${SLURM_NODEID:-0}"
seed="${SLURM_JOB_ID:-$$}"
node_name="${SLURMD_NODENAME:-$(uname -n)}"
# Slurm's and MPI's variables would draw the model's processes into the job's own MPI world.
unset "${!SLURM_@}" "${!PMI_@}" "${!PMI2_@}" "${!PMIX_@}"
why_ended=
die() {
  why_ended="$node_name: $*"
  echo "$why_ended" >&2
  # The first one that ends knows why; the others are ended then.
  (set -o noclobber && echo "$why_ended" >"$EVALHPC_RENDEZVOUS/why") 2>/dev/null || true
  exit 1
}

# The address of this node that the others reach; EVALHPC_NODE_ADDRESS overrides the guess.
node_address() {
  [[ -z ${EVALHPC_NODE_ADDRESS:-} ]] || { echo "$EVALHPC_NODE_ADDRESS"; return; }
  "$node_python" - "$node_name" <<'PYTHON'
import socket, sys
for name in (sys.argv[1], socket.gethostname()):
    try:
        found = [info[4][0] for info in socket.getaddrinfo(name, None, socket.AF_INET)]
    except OSError:
        continue
    for address in found:
        if not address.startswith("127."):
            sys.exit(print(address))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("10.255.255.255", 9))  # sends nothing: asks the routing table
    print(probe.getsockname()[0])
PYTHON
}

# The first port of a block that is free here, below 9000: clear of Ray's usual range and of the
# kernel's. The search begins where the job's id says, so that two jobs on a node seldom meet.
free_ports() { # SIZE SEED
  "$node_python" - "$1" "$2" <<'PYTHON'
import socket, sys
size, seed = int(sys.argv[1]), int(sys.argv[2])
blocks = (9000 - 2000) // size
for step in range(blocks):
    base = 2000 + (seed + step) % blocks * size
    held = []
    try:
        for port in range(base, base + size):
            probe = socket.socket()
            held.append(probe)
            probe.bind(("", port))
    except OSError:
        continue
    finally:
        for probe in held:
            probe.close()
    sys.exit(print(base))
sys.exit(f"no {size} free TCP ports in a row between 2000 and 9000")
PYTHON
}

publish() { # TEXT: whole or not at all
  echo "$1" >"$EVALHPC_RENDEZVOUS/head.part"
  mv "$EVALHPC_RENDEZVOUS/head.part" "$EVALHPC_RENDEZVOUS/head"
}

await_head() { # prints what the first node published
  local end=$((SECONDS + ready_timeout))
  until [[ -s $EVALHPC_RENDEZVOUS/head ]]; do
    ((SECONDS < end)) || die "the first node published no address within $ready_timeout s"
    sleep 0.3
  done
  cat "$EVALHPC_RENDEZVOUS/head"
}

node_python=python3
ready_timeout=1200
[[ $node_python != */* ]] || PATH="${node_python%/*}:$PATH" # its own programs stand beside it

# One process a node; they meet at a port of the first one.
if ((node_rank == 0)); then
  head_ip=$(node_address)
  head_port=$(free_ports 64 "$seed")
  publish "$head_ip:$head_port"
fi
head=$(await_head)
# As an argument its key would be seen by all users of the node, so it becomes one in Python only.
launcher='
import os, runpy, sys
token = os.environ.get("EVALHPC_SERVER_TOKEN")
sys.argv += ["--api-key", token] if token else []
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
'
server=(
  python3 -c "$launcher"
  --model-path='/models/our model'
  --served-model-name='our model'
  --host="$EVALHPC_HOST" --port="$EVALHPC_PORT"
  --tp-size=8
  --pp-size=4
  --nnodes=4 --node-rank="$node_rank" --dist-init-addr="$head"
  '--its own'
  '$option'
)
exec "${server[@]}"
