#!/usr/bin/env bash
# One replica of 'our model', in the foreground, with an OpenAI-compatible API.
# By hand:  EVALHPC_HOST=127.0.0.1 EVALHPC_PORT=8000 bash server.sh
# It needs a job of 2 nodes, and listens on the first one.
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
    srun --overlap --export=ALL --nodes=2 --ntasks=2 --ntasks-per-node=1
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1
    --container-image=/images/server.sqsh
    '--container-mounts=/shared/runs/demo:/shared/runs/demo,/models/our model:/models/our model:ro,/datasets:/data:ro'
    --no-container-mount-home
    --no-container-entrypoint
  )
  export EVALHPC_STEP=server.sh
  # Asked to end, srun kills its tasks at once; SIGUSR1 it hands on to them, and they tidy up.
  set -m # srun gets a process group of its own: only we tell it to end
  "${step[@]}" bash /shared/runs/demo/scripts/server.sh "$@" </dev/null &
  set +m
  srun_pid=$!
  # shellcheck disable=SC2317,SC2329 # the trap calls it
  end_step() {
    kill -USR1 "$srun_pid"
    for _ in {1..60}; do
      kill -0 "$srun_pid" 2>/dev/null || exit 143
      sleep 0.1
    done
    kill "$srun_pid"
    exit 143
  }
  trap end_step TERM INT
  code=0
  wait "$srun_pid" || code=$?
  # The last word, after what every node had to say.
  [[ ! -s $EVALHPC_RENDEZVOUS/why ]] || cat "$EVALHPC_RENDEZVOUS/why" >&2
  exit "$code"
fi

# --- server ------------------------------------------------------------------------------------
: "${EVALHPC_HOST:?the address to listen on, e.g. 127.0.0.1}"
: "${EVALHPC_PORT:?the port to listen on}"
# Where several copies share a node, each has GPUs of its own; a step sets its own list before this.
[[ -z ${EVALHPC_GPUS:-} ]] || export CUDA_VISIBLE_DEVICES="$EVALHPC_GPUS"
# vLLM on this job's GPUs. It reads its bearer token from VLLM_API_KEY, for routes below /v1; others
# generate as well (/invocations), so a class of ours guards them all.
middleware=()
if [[ -n ${EVALHPC_SERVER_TOKEN:-} ]]; then
  export VLLM_API_KEY="$EVALHPC_SERVER_TOKEN"
  guard=/shared/runs/demo/endpoints/guard
  mkdir -p "$guard"
  part=$(mktemp "$guard/part.XXXXXX")
  cat >"$part" <<'PYTHON'
import hmac
import os


class Guard:
    """Asks for the token on every route but /health."""

    def __init__(self, app):
        self.app = app
        self.wanted = b"Bearer " + os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan" or scope.get("path") == "/health":
            return await self.app(scope, receive, send)
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self.wanted):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": 401, "headers": [kind]})
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
PYTHON
  mv "$part" "$guard/evalhpc_guard.py"
  export PYTHONPATH="$guard${PYTHONPATH:+:$PYTHONPATH}"
  middleware=(--middleware=evalhpc_guard.Guard)
fi
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
server=(
  vllm serve '/models/our model'
  --served-model-name='our model'
  --host="$EVALHPC_HOST" --port="$EVALHPC_PORT" "${middleware[@]}"
  --tensor-parallel-size=8
  --pipeline-parallel-size=2
  --distributed-executor-backend=ray
  '--its own'
  '$option'
)
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

# --- Ray: its head on the first node, a worker on each other ------------------------------------
# Everything of it is under one short folder on each node's own disk, which goes when this script
# does. It has one name on all nodes: Ray before 2.51 uses the head's on all of them.
ray_folder="${EVALHPC_NODE_TMP:-/tmp}/ehpc.${EVALHPC_RENDEZVOUS##*.}"
((${#ray_folder} <= 41)) || die "$ray_folder is too long for the sockets in it: 41 characters at most"
mkdir -m 700 "$ray_folder" || die "$ray_folder cannot be made: see EVALHPC_NODE_TMP"
children=()
# shellcheck disable=SC2317,SC2329 # the traps call it
clean_up() {
  trap '' TERM INT USR1
  disown -a || true # or bash writes a line, with the whole command, for each that is killed here
  local pid
  for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
  for _ in {1..15}; do
    kill -0 "${children[@]}" 2>/dev/null || break
    sleep 0.1
  done
  sweep
  # Again, as the last word: what ended meanwhile has said a lot.
  [[ -z $why_ended ]] || echo "$why_ended" >&2
}
# shellcheck disable=SC2317,SC2329 # as above
sweep() {
  # Ray's processes have sessions of their own; the folder in their words or variables is only ours.
  local found file
  found=$(grep -lsaF -- "$ray_folder" /proc/[0-9]*/cmdline /proc/[0-9]*/environ) || true
  for file in $found; do
    file=${file#/proc/}
    kill -9 "${file%/*}" 2>/dev/null || true
  done
  rm -rf "$ray_folder"
}
# What holds file 9 open is this script alone: if it is killed, all that it started still ends.
exec 9> >(trap '' TERM INT USR1 && cat >/dev/null && sweep)
trap clean_up EXIT
trap 'exit 143' TERM INT USR1

export RAY_TMPDIR="$ray_folder" RAY_USAGE_STATS_ENABLED=0 RAY_COLOR_PREFIX=0
unset RAY_ADDRESS
# Only who has this start's token may join or use the cluster; it is in the environment alone.
export RAY_AUTH_MODE=token
: "${RAY_AUTH_TOKEN:?set by this script before its step starts}"

node_ip=$(node_address)
export VLLM_HOST_IP="$node_ip" # vLLM asks Ray for a node of this address
start_ray() { # ATTEMPT OPTION…: in the background, every port in a block of its own
  base=$(free_ports 128 $((seed + 7 * $1 + 13 * node_rank + EVALHPC_PORT)))
  local options=("${@:2}")
  ((node_rank > 0)) || options=(--head --port="$base" --include-dashboard=false)
  ray start --block --log-color=false --node-ip-address="$node_ip" --disable-usage-stats \
    --temp-dir="$ray_folder" --object-store-memory=500000000 \
    --node-manager-port=$((base + 1)) --object-manager-port=$((base + 2)) \
    --runtime-env-agent-port=$((base + 3)) --dashboard-agent-grpc-port=$((base + 4)) \
    --dashboard-agent-listen-port=$((base + 5)) --metrics-export-port=$((base + 6)) \
    --ray-client-server-port=$((base + 7)) \
    --min-worker-port=$((base + 8)) --max-worker-port=$((base + 127)) \
    --num-cpus=8 --num-gpus=8 "${options[@]}" 9>&- &
  ray_pid=$!
  children=("$ray_pid")
}
ray_runs() { kill -0 "$ray_pid" 2>/dev/null; }

if ((node_rank > 0)); then
  head_address=$(await_head)
  # One that ends at once met a port that was taken meanwhile: then another block.
  for attempt in 1 2 3; do
    begin=$SECONDS
    start_ray "$attempt" --address="$head_address"
    wait "$ray_pid" || true
    ((SECONDS - begin < 20)) || break
  done
  die "the Ray worker of this node ended"
fi

# A port that was free a moment ago may be taken by now: then another block.
for attempt in 1 2 3; do
  start_ray "$attempt"
  until (: <"/dev/tcp/$node_ip/$base") 2>/dev/null; do
    ray_runs || continue 2
    sleep 0.2
  done
  sleep 1 # what answered may be somebody else's: then ours is about to end
  ray_runs && break
done
ray_runs || die "the Ray head did not start"
export RAY_ADDRESS="$node_ip:$base"
publish "$RAY_ADDRESS"

# "Ray runtime started" comes before a node counts: ask until all are there, then watch them.
"$node_python" - 2 "$ready_timeout" "$RAY_ADDRESS" "$ray_folder/all-here" 9>&- <<'PYTHON' &
import pathlib, sys, time
import ray
want, deadline = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
ray.init(address=sys.argv[3], log_to_driver=False, logging_level="warning")
while (here := sum(node["Alive"] for node in ray.nodes())) < want:
    if time.monotonic() > deadline:
        sys.exit(f"only {here} of {want} nodes joined Ray within {sys.argv[2]} s")
    time.sleep(0.5)
print(f"Ray has its {want} nodes", flush=True)
pathlib.Path(sys.argv[4]).touch()
from ray._private.state import actors  # there is no public way without the dashboard
while (here := sum(node["Alive"] for node in ray.nodes())) >= want:
    # A rank that dies leaves the others waiting for it, and the routes say that all is well.
    dead = [a for a in actors().values() if a["State"] == "DEAD" and a["ActorClassName"] == "ModelWorker"]
    if dead:
        sys.exit(f"a rank of the model died: {dead[0].get('DeathCause')}")
    time.sleep(1)
sys.exit(f"Ray lost a node: {here} of {want} are left")
PYTHON
watch_pid=$!
children+=("$watch_pid")
until [[ -e $ray_folder/all-here ]]; do
  ray_runs || die "the Ray head ended"
  kill -0 "$watch_pid" 2>/dev/null || die "the Ray cluster is not complete"
  sleep 0.3
done

# --- the server, on the first node; if anything of this ends, all of it does ---------------------
"${server[@]}" 9>&- &
server_pid=$!
children+=("$server_pid")
wait -n || true
ray_runs || die "the Ray head ended"
kill -0 "$watch_pid" 2>/dev/null || die "the Ray cluster lost a node or a rank of the model"
code=0
wait "$server_pid" || code=$?
die "the model server ended with exit code $code"
