#!/usr/bin/env bash
# image.sh BUSYBOX DIR: a container image out of one static busybox, without any registry.
#
# Writes DIR/box.tar (what `docker save` writes; `ctr images import` reads it) with the names
# localhost/box:1, for the tests' pods, and localhost/pause:1, for containerd's sandboxes; and
# DIR/rootfs.tar, the same files alone. The same busybox gives the same bytes.
set -euo pipefail

busybox=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,var,root,home,tmp}
chmod 1777 "$root/tmp"
install -m 755 "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list-full); do
  [ "$applet" = bin/busybox ] || ln -s /bin/busybox "$root/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'nobody:x:65534:65534:nobody:/:/bin/sh' >>"$root/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\n' >"$root/etc/group"

pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$1" -cf "$2" "${@:3}"; }
hash_of() { sha256sum "$1" | cut -d' ' -f1; }

pack "$root" "$out/rootfs.tar" .
layer=$(hash_of "$out/rootfs.tar")
mkdir "$work/image"
cp "$out/rootfs.tar" "$work/image/$layer.tar"

architecture=$(dpkg --print-architecture)
cat >"$work/config" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sleep","2147483647"],"WorkingDir":"/"},
 "rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
config=$(hash_of "$work/config")
mv "$work/config" "$work/image/$config.json"
cat >"$work/image/manifest.json" <<JSON
[{"Config":"$config.json","RepoTags":["localhost/box:1","localhost/pause:1"],"Layers":["$layer.tar"]}]
JSON
pack "$work/image" "$out/box.tar.new" manifest.json "$config.json" "$layer.tar"
mv "$out/box.tar.new" "$out/box.tar"
