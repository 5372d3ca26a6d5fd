# shellcheck shell=bash
# What a node sees of the file system. Runs in the node's mount namespace only.

OWN=() # folders whose content is the node's own: here, and only here, mount points may be made

skeleton() { # DIR: an empty, readable folder in the place of DIR
  mount -t tmpfs -o mode=755,size=16m skeleton "$1"
  OWN+=("$1")
}

is_own() { # PATH
  local dir
  for dir in "${OWN[@]}"; do [[ $1 != "$dir"/* ]] || return 0; done
  return 1
}

others_can() { # rx|x PATH: can everybody do so with this folder or file
  local mode
  mode=$(stat -Lc %a "$2")
  case $1 in x) ((0$mode & 01)) ;; rx) (((0$mode & 05) == 05)) ;; esac
}

closed_parent() { # PATH: the topmost of its parents that an ordinary user cannot pass
  local parts part dir=''
  IFS=/ read -ra parts <<<"${1%/*}"
  for part in "${parts[@]:1}"; do
    dir+=/$part
    [ -e "$dir" ] || return 0
    others_can x "$dir" || { printf '%s' "$dir"; return 0; }
  done
}

mount_point() { # SRC DST: make DST something that SRC can be mounted on
  [ ! -e "$2" ] || return 0
  is_own "$2" || die "--bind: $2 does not exist; make it first, or choose a path below /tmp"
  if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "${2%/*}" && : >"$2"; fi
}

bind() { # FD DST
  # mount(8) would turn the link into a path, which may lead elsewhere by now
  mount --no-canonicalize --rbind "/proc/self/fd/$1" "$2"
}

bind_entries() { # FD DST: each entry of a folder that is closed itself, in an open one
  local entry name fd
  skeleton "$2"
  for entry in "/proc/self/fd/$1"/* "/proc/self/fd/$1"/.[!.]*; do
    name=${entry##*/}
    if [ -L "$entry" ]; then
      cp -P "$entry" "$2/$name"
    elif [ -e "$entry" ]; then
      exec {fd}<"$entry"
      mount_point "$entry" "$2/$name"
      bind "$fd" "$2/$name"
      exec {fd}<&-
    fi
  done
}

show() { # FD SRC DST: SRC, open as FD, appears as DST and an ordinary user can get there
  local closed open=0
  closed=$(closed_parent "$3")
  if [ ! -d "/proc/self/fd/$1" ] || others_can rx "/proc/self/fd/$1"; then open=1; fi
  if [ "$2" = "$3" ] && [ -z "$closed" ] && [ "$open" = 1 ] && [ "$2" -ef "/proc/self/fd/$1" ]; then
    return 0 # it is there already
  fi
  [ -z "$closed" ] || skeleton "$closed"
  mount_point "/proc/self/fd/$1" "$3"
  if [ "$open" = 1 ]; then bind "$1" "$3"; else bind_entries "$1" "$3"; fi
}

mount_node() { # of $NAME
  # shellcheck disable=SC2153 # set by init
  local dir=$STATE/nodes/$NAME pair fd index=0 fds=() file
  rm -rf --one-file-system "$dir/tmp" # a rebooted node has an empty /tmp
  mkdir -m 1777 "$dir/tmp"
  for pair in "${BINDS[@]}"; do # opened before anything is covered
    exec {fd}<"${pair%%:*}"
    fds+=("$fd")
  done
  mount -t tmpfs -o mode=1777 shm /dev/shm
  mount --bind "$dir/tmp" /tmp
  OWN+=(/tmp)
  for pair in "${BINDS[@]}"; do
    show "${fds[index++]}" "${pair%%:*}" "${pair#*:}"
  done
  for fd in "${fds[@]}"; do exec {fd}<&-; done
  [ ! -e "$STATE/dev/fuse" ] || mount --bind "$STATE/dev/fuse" /dev/fuse
  for file in slurm hosts passwd group; do mount --bind "$STATE/etc/$file" "/etc/$file"; done
}
