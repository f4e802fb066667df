#!/usr/bin/env bash
# Makes container images without any registry.
#
#   image.sh box BUSYBOX DIR     one static busybox: localhost/box:1, for the tests' pods, and
#                                localhost/pause:1, for containerd's sandboxes
#   image.sh gnu TREE DIR        Debian's packages as they were unpacked into TREE: localhost/gnu:1,
#                                for what GNU's tools do in another way than busybox's
#
# Writes DIR/NAME.tar (what `docker save` writes; `ctr images import` reads it) and, of box,
# DIR/rootfs.tar, the same files alone. The same input gives the same bytes.
set -euo pipefail

name=$1 from=$2 out=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

box() {
  install -D -m 755 "$from" "$root/bin/busybox"
  local applet
  for applet in $("$from" --list-full); do
    [ "$applet" = bin/busybox ] || ln -s /bin/busybox "$root/$applet"
  done
}

gnu() {
  cp -a "$from/." "$root"
  rm -rf "$root"/usr/share/{doc,man,locale,info,lintian}
  ln -sf dash "$root/bin/sh"
}

skeleton() {
  mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,var,root,home,tmp}
  chmod 1777 "$root/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'nobody:x:65534:65534:nobody:/:/bin/sh' >>"$root/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\n' >"$root/etc/group"
}

pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$1" -cf "$2" "${@:3}"; }
hash_of() { sha256sum "$1" | cut -d' ' -f1; }

image() { # TAG...
  local layer architecture config tags
  pack "$root" "$work/rootfs.tar" .
  layer=$(hash_of "$work/rootfs.tar")
  mkdir "$work/image"
  cp "$work/rootfs.tar" "$work/image/$layer.tar"
  architecture=$(dpkg --print-architecture)
  cat >"$work/config" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sleep","2147483647"],"WorkingDir":"/"},
 "rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
  config=$(hash_of "$work/config")
  mv "$work/config" "$work/image/$config.json"
  tags=$(printf ',"%s"' "$@")
  cat >"$work/image/manifest.json" <<JSON
[{"Config":"$config.json","RepoTags":[${tags#,}],"Layers":["$layer.tar"]}]
JSON
  pack "$work/image" "$out/$name.tar.new" manifest.json "$config.json" "$layer.tar"
  mv "$out/$name.tar.new" "$out/$name.tar"
}

skeleton
case $name in
box)
  box
  image localhost/box:1 localhost/pause:1
  cp "$work/rootfs.tar" "$out/rootfs.tar"
  ;;
gnu)
  gnu
  image localhost/gnu:1
  ;;
*) echo "image.sh: there is no image $name" >&2 && exit 2 ;;
esac
