# shellcheck shell=bash
# The whole cluster: up, down, status, exec.

read_up_options() {
  # shellcheck disable=SC2153 # STATE is set by common.sh
  NODES=4 GPUS=8 CPUS=32 ACCOUNTING=0 SPANK='' BOOT='' BINDS=("$STATE:$STATE" "$REPO:$REPO")
  local python name value
  # The interpreter of the checkout's environment may lie in somebody's closed home.
  if python=$(readlink -e "$REPO/.venv/bin/python"); then
    python=${python%/bin/*}
    BINDS+=("$python:$python")
  fi
  while [ "$#" -gt 0 ]; do
    case $1 in
      --accounting) ACCOUNTING=1 && shift && continue ;;
      --nodes | --gpus | --cpus | --bind | --spank | --boot) value=$(option_value "$@") ;;
      *) usage_error "up: unknown option '$1'" ;;
    esac
    case $1 in
      --nodes) NODES=$value ;;
      --gpus) GPUS=$value ;;
      --cpus) CPUS=$value ;;
      --bind) add_bind "$value" ;;
      --boot) BOOT=$(readlink -e -- "$value") || usage_error "--boot: no '$value' here" ;;
      --spank) SPANK=$(readlink -e -- "$value") || usage_error "--spank: no '$value' here" ;;
    esac
    shift 2
  done
  for name in NODES GPUS CPUS; do
    [[ ${!name} =~ ^(0|[1-9][0-9]{0,3})$ ]] || usage_error "--${name,,}: '${!name}' is no number"
  done
  ((NODES >= 1 && NODES <= 250)) || usage_error '--nodes: 1 to 250'
  ((CPUS >= 1)) || usage_error '--cpus: at least 1'
  [[ $STATE != *[:[:space:],]* ]] || usage_error "no colon, comma or blank in $STATE, please"
  [ "${#STATE}" -le 80 ] || usage_error "$STATE is too long for a socket: at most 80 characters"
}

add_bind() { # SRC[:DST]
  local source=${1%%:*} target=${1#*:}
  source=$(readlink -e -- "$source") || usage_error "--bind: no '${1%%:*}' here"
  [ "$1" != "${1%%:*}" ] || target=$source
  [[ $target == /* ]] || usage_error "--bind: '$target' is no absolute path"
  BINDS+=("$source:$target")
}

settings() { # as a script that sets them
  printf '%s=%s\n' NODES "$NODES" GPUS "$GPUS" CPUS "$CPUS" ACCOUNTING "$ACCOUNTING"
  printf '%s=%q\n' SPANK "$SPANK" BOOT "$BOOT"
  printf 'BINDS=('
  printf ' %q' "${BINDS[@]}"
  printf ' )\n'
}

command_up() {
  local node
  read_up_options "$@"
  need_packages
  lock_state
  if [ -e "$STATE/complete" ] && [ "$(settings)" = "$(<"$STATE/settings")" ] && alive fabric; then
    for node in $(node_names); do boot_node "$node"; done
    return 0
  fi
  need_namespaces
  remove_cluster
  lock_state # remove_cluster took the folder, and the lock with it
  : >"$MARK"
  settings >"$STATE/settings"
  write_config
  start_cluster
  : >"$STATE/complete"
}

start_cluster() {
  local node children=() child compute
  mapfile -t compute < <(seq -f 'n%g' "$NODES")
  spawn fabric
  for node in login "${compute[@]}"; do
    spawn "$node" &
    children+=("$!")
  done
  for child in "${children[@]}"; do wait "$child" || exit "$EX_FAILED"; done
  wait_for 60 registered "${compute[@]}" \
    || die "the nodes do not register; see $STATE/log: $(tail -n 1 "$STATE/log/slurmctld.log")"
}

remove_cluster() { # with the lock held
  local round init name
  if [ ! -e "$MARK" ]; then
    # an empty folder may be ours, from an `up` that was cut off or the lock just now
    rmdir -- "$STATE" 2>/dev/null || die "$STATE is neither empty nor a devcluster's: left alone"
    return 0
  fi
  for round in kill wait; do # all are killed first: taking a network down takes the kernel a while
    for init in "$STATE"/nodes/*/init; do
      [ -e "$init" ] || continue
      name=$(basename "${init%/init}")
      if [ "$round" = kill ]; then kill_node "$name"; else end_node "$name"; fi
    done
  done
  rm -rf --one-file-system -- "$STATE"
}

command_down() {
  [ "$#" -eq 0 ] || usage_error 'down takes nothing'
  [ -e "$STATE" ] || return 0
  lock_state
  remove_cluster
}

command_status() {
  local json=0 node state states code=0 rows=() life controller=down
  case $*: in :) ;; --json:) json=1 ;; *) usage_error 'status takes only --json' ;; esac
  if [ ! -e "$STATE/complete" ] && [ "$json" = 1 ]; then
    printf '{"state_dir": "%s", "up": false, "controller": "down", "nodes": []}\n' "$STATE"
    exit "$EX_NO_CLUSTER"
  fi
  load_settings
  if alive login && controller_up; then controller=up; else code=$EX_DEGRADED; fi
  states=$(alive login && slurm_states) || states=''
  for node in $(node_names); do
    life=dead state=-
    if alive "$node"; then life=alive; else code=$EX_DEGRADED; fi
    if [ "$node" != login ]; then
      state=$(awk -v n="$node" '$1 == n { print $2 }' <<<"$states")
      [[ $state =~ ^(idle|mixed|allocated|completing)$ ]] || code=$EX_DEGRADED
    fi
    rows+=("$node $life ${state:-unknown}")
  done
  if [ "$json" = 1 ]; then status_json; else status_table; fi
  exit "$code"
}

status_table() { # of command_status
  printf '%-6s %-6s %s\n' NODE LIFE SLURM
  # shellcheck disable=SC2086 # a row is three words
  for node in "${rows[@]}"; do printf '%-6s %-6s %s\n' $node; done
  echo "slurmctld is $controller; state folder $STATE"
}

status_json() { # of command_status
  local comma='' name
  printf '{"state_dir": "%s", "up": %s, "controller": "%s", "nodes": [' "$STATE" \
    "$([ "$code" -eq 0 ] && echo true || echo false)" "$controller"
  for node in "${rows[@]}"; do
    read -r name life state <<<"$node"
    printf '%s{"name": "%s", "alive": %s, "slurm": "%s"}' "$comma" "$name" \
      "$([ "$life" = alive ] && echo true || echo false)" "$state"
    comma=', '
  done
  printf ']}\n'
}
