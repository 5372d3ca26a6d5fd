# shellcheck shell=bash
# The Debian and Ubuntu packages that the cluster is made of.

readonly POLICY=/usr/sbin/policy-rc.d # Debian's way to say whether an install may start daemons

missing_packages() { # ACCOUNTING [CONTAINERS]: one name a line
  local pair
  local wanted=(slurmctld:slurmctld slurmd:slurmd srun:slurm-client munged:munge ip:iproute2
    nsenter:util-linux setpriv:util-linux)
  [ "$1" -eq 0 ] || wanted+=(slurmdbd:slurmdbd mariadbd:mariadb-server)
  [ "${2:-0}" -eq 0 ] || {
    wanted+=(ch-run:charliecloud-runtime bwrap:bubblewrap mksquashfs:squashfs-tools gcc:gcc)
    # gcc alone finds no header of the C library
    [ -e /usr/include/stdlib.h ] || echo libc6-dev
    [ -e /usr/include/slurm/spank.h ] || echo libslurm-dev
    [ -e /usr/include/fuse3/fuse.h ] || echo libfuse3-dev
  }
  for pair in "${wanted[@]}"; do
    type -P "${pair%:*}" >/dev/null || echo "${pair#*:}"
  done | sort -u
}

need_packages() {
  local missing option=''
  # shellcheck disable=SC2153 # an option of up
  missing=$(missing_packages "$ACCOUNTING")
  [ "$ACCOUNTING" -eq 0 ] || option=' --accounting'
  [ -z "$missing" ] \
    || die "missing packages: ${missing//$'\n'/ }; run: devcluster install$option" "$EX_MISSING"
  [ -d /etc/slurm ] \
    || die 'no folder /etc/slurm to mount over; run: devcluster install' "$EX_MISSING"
}

need_namespaces() {
  unshare --net --mount --uts --ipc --pid --fork true 2>/dev/null \
    || die 'no namespaces can be made here; in a container, it must be a privileged one' \
      "$EX_NOT_ROOT"
}

without_daemons() { # CMD...: a package installed by it does not start its daemon
  local created=0 status=0 answer
  answer=$(mktemp)
  printf '#!/bin/sh\nexit 101\n' >"$answer"
  chmod 755 "$answer"
  [ -e "$POLICY" ] || { : >"$POLICY" && created=1; }
  # Mounted over, so that a policy the machine already has stays as it is.
  # shellcheck disable=SC2016 # expanded in the namespace
  unshare --mount sh -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' \
    sh "$answer" "$POLICY" "$@" || status=$?
  [ "$created" -eq 0 ] || rm -f "$POLICY"
  rm -f "$answer"
  return "$status"
}

command_install() {
  local accounting=0 containers=0 argument missing
  for argument in "$@"; do
    case $argument in
      --accounting) accounting=1 ;;
      --containers) containers=1 ;;
      *) usage_error 'install takes only --accounting and --containers' ;;
    esac
  done
  mapfile -t missing < <(missing_packages "$accounting" "$containers")
  if [ "${#missing[@]}" -eq 0 ]; then
    say 'all packages are installed'
  else
    type -P apt-get >/dev/null || die "no apt-get here; missing: ${missing[*]}" "$EX_MISSING"
    say "installing ${missing[*]} (their daemons are not started)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say 'apt-get update failed, trying with the lists there are'
    without_daemons apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || true
    mapfile -t missing < <(missing_packages "$accounting" "$containers")
    [ "${#missing[@]}" -eq 0 ] || die "apt-get did not install: ${missing[*]}" "$EX_MISSING"
  fi
  mkdir -p /etc/slurm
}
