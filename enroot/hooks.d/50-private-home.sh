#!/usr/bin/env bash
# A home inside the container where Enroot mounts none: empty at each start, gone with it.
# Without one, programs fail to write below a HOME that is not there.
#
# Enroot runs it before the container starts, with these variables set:
#   ENROOT_ROOTFS    the container's root, as the host sees it
#   ENROOT_ENVIRON   the file of variables that the container starts with
set -euo pipefail

[[ ${ENROOT_MOUNT_HOME:-no} != y* ]] || exit 0
home=/run/evalhpc-home
mkdir -p "${ENROOT_ROOTFS}/run" 2>/dev/null || true
if mkdir -m 700 "${ENROOT_ROOTFS}${home}" 2>/dev/null; then
  printf 'HOME=%s\n' "$home" >>"$ENROOT_ENVIRON"
fi
