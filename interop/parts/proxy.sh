#!/bin/sh
# Runs a program in one of the roots that install.sh makes of proxies.
#
#   run ROOT CONFIGURATION STATE COMMAND...
#
# CONFIGURATION is seen as /etc/bowline there, STATE, which it may write, as /run/bowline. Who ends
# this process ends the program with all that it has started, and every mount is gone.
set -e
[ "$1" != inside ] || {
  root=$2
  mount --rbind /dev "$root/dev"
  mount -t proc proc "$root/proc"
  mount --bind "$3" "$root/etc/bowline"
  mount --bind "$4" "$root/run/bowline"
  [ ! -e "$root/../envoy/envoy" ] || [ "$5" != envoy ] || {
    : >>"$root/usr/bin/envoy"
    mount --bind "$root/../envoy/envoy" "$root/usr/bin/envoy"
  }
  mount -t tmpfs tmpfs "$root/tmp"
  shift 4
  cd /
  # No `exec`: the first process of the namespace must keep its identity, or the kernel forgets that
  # it ends with the one outside, and what a proxy that changes its user has started lives on.
  chroot "$root" "$@"
  exit
}
root=$(dirname "$(readlink -f "$0")")/$1
shift
exec unshare --mount --pid --fork --kill-child sh "$0" inside "$root" "$@"
