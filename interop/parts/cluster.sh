#!/usr/bin/env bash
# A real Kubernetes on loopback, out of the parts that install.sh got.
#
#   cluster.sh up DIR      etcd, kube-apiserver and, as the node `localhost`, containerd and kubelet,
#                          with the pods default/box (busybox) and default/gnu (Debian) on it;
#                          returns when they are ready
#   cluster.sh down DIR    ends what `up DIR` started and nothing else; logs and keys stay in DIR
#   cluster.sh enter DIR COMMAND...
#                          a command inside of the node's namespaces, where containerd's socket, the
#                          pods' processes and their network namespaces are; `down` ends it
#   cluster.sh restart DIR NAME
#                          starts containerd, kubelet, face or kube-apiserver with its own words again,
#                          and ends it first if a test has not; pids/NAME is the new one
#
# Everything is in DIR: env (addresses, to be sourced), admin.kubeconfig (system:masters, by
# certificate), viewer.kubeconfig (may get pods and `get` their exec, but not `create` it; by token),
# pki/, log/, pids/. All servers listen on 127.0.0.1, on ports that the system chooses.
#
#   BOWLINE_PARTS            where the parts are; default: target/parts in this checkout
#   NO_KUBELET=1             no node and no pod: the tests register a node of theirs
#   ONLY=containerd          no Kubernetes: containerd, and a registry with the images of critest
#   CONTAINERD=old           containerd 1.7, which has the CRI of old kubelets (v1alpha2) as well
#   KUBERNETES=1.20          kube-apiserver and kubelet of that version; wants CONTAINERD=old
#   CONTROLLERS=1            kube-controller-manager, kube-scheduler and kube-proxy as well, so that
#                            Deployments run and Services have addresses, also for pods. It makes addresses,
#                            routes and rules, for which it wants a network namespace of its own: run it by
#                            unshare --net
#   FACE=COMMAND             a program in the node's namespaces that serves the CRI on a socket of its
#                            own, split at spaces. {face} is that socket, {containerd} containerd's, {dir}
#                            is DIR. It is up before the kubelet, which is pointed at it
#   RUNTIME_ENDPOINT         what the kubelet is pointed at; default: FACE's socket, or containerd's
#   APISERVER_FEATURE_GATES  KUBELET_FEATURE_GATES     A=true,B=false
#   APISERVER_ARGS           KUBELET_ARGS              more flags, split at spaces
#   CONTAINERD_GRPC          more of containerd's configuration of its socket, lines of TOML
#   KUBELET_CONFIG           more of the kubelet's configuration, lines of YAML
#   APISERVER_PORT  ETCD_PORT  ETCD_PEER_PORT  KUBELET_PORT       fixed ports instead
#   POD_SUBNET               the pods' addresses; default 10.88.0.0/24. Each cluster that runs at the
#                            same time needs one of its own
set -euo pipefail

self=$(readlink -f "${BASH_SOURCE[0]}")
here=$(dirname "$self")
parts=${BOWLINE_PARTS:-$(cd "$here/../.." && pwd)/target/parts}

# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────

authority() { # NAME
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$1" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "pki/$1.key" -out "pki/$1.crt" 2>>log/pki.log
}

certificate() { # NAME SUBJECT AUTHORITY USAGE [EXTENSION]
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" \
    -keyout "pki/$1.key" -out "pki/$1.csr" 2>>log/pki.log
  printf '%s\n' basicConstraints=CA:FALSE keyUsage=digitalSignature "extendedKeyUsage=$4" \
    "${@:5}" >"pki/$1.ext"
  openssl x509 -req -in "pki/$1.csr" -CA "pki/$3.crt" -CAkey "pki/$3.key" -CAcreateserial \
    -days 3650 -extfile "pki/$1.ext" -out "pki/$1.crt" 2>>log/pki.log
  rm "pki/$1.csr" "pki/$1.ext"
}

make_keys() {
  # Two authorities: whoever accepts the cluster's clients on the kubelet's port is found out.
  authority ca
  authority kubelet-client-ca
  local loopback=subjectAltName=IP:127.0.0.1,DNS:localhost
  certificate apiserver /CN=kube-apiserver ca serverAuth "$loopback,IP:10.0.0.1,DNS:kubernetes"
  certificate kubelet /O=system:nodes/CN=system:node:localhost ca serverAuth "$loopback"
  certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client \
    kubelet-client-ca clientAuth
  certificate admin /O=system:masters/CN=admin ca clientAuth
  certificate node /O=system:nodes/CN=system:node:localhost ca clientAuth
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out pki/service-account.key 2>>log/pki.log
  echo 'viewer-token,viewer,viewer,viewers' >pki/tokens.csv
}

kubeconfig() { # FILE USER-AS-YAML
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: bowline
clusters: [{name: bowline, cluster: {server: "$APISERVER_URL", certificate-authority: "$dir/pki/ca.crt"}}]
contexts: [{name: bowline, context: {cluster: bowline, user: user, namespace: default}}]
users: [{name: user, user: {$2}}]
YAML
}

by_certificate() { echo "client-certificate: \"$dir/pki/$1.crt\", client-key: \"$dir/pki/$1.key\""; }

# ── The control plane ────────────────────────────────────────────────────────────────────────────

start() { # NAME COMMAND...
  local name=$1
  # A session of its own: a Ctrl-C at the tests must not end a server before `down` does.
  setsid "${@:2}" >"log/$name.log" 2>&1 </dev/null &
  echo $! >"pids/$name"
}

# What `restart` starts again.
start_for_restarts() { # NAME COMMAND...
  mkdir -p machine
  printf '%s\0' "${@:2}" >"machine/$1.words"
  start "$@"
}

start_etcd() {
  local client=http://127.0.0.1:$ETCD_PORT peer=http://127.0.0.1:$ETCD_PEER_PORT
  start etcd "$parts/bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
  wait_for 30 etcd curl --silent --fail --noproxy '*' "$client/health"
}

start_apiserver() {
  local own=(--kubelet-preferred-address-types=Hostname,InternalIP)
  if [ -n "$CONTROLLERS" ]; then
    own+=(--bind-address=0.0.0.0)
  else
    # ServiceAccount and the not-ready taint want controllers. Nobody asks for an endpoint.
    own+=(--bind-address=127.0.0.1 --endpoint-reconciler-type=none
      --disable-admission-plugins=ServiceAccount,TaintNodesByCondition)
  fi
  # Since 1.21 there is no other port.
  [ "$KUBERNETES" != 1.20 ] || own+=(--insecure-port=0)
  # The address to advertise may not be a loopback one.
  # shellcheck disable=SC2206  # flags are split at spaces
  own+=(${APISERVER_ARGS:-})
  start_for_restarts kube-apiserver "$kubernetes/kube-apiserver" \
    --etcd-servers="http://127.0.0.1:$ETCD_PORT" \
    --secure-port="$APISERVER_PORT" \
    --advertise-address="$outside" --service-cluster-ip-range=10.0.0.0/24 \
    --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key \
    --client-ca-file=pki/ca.crt --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC \
    --service-account-issuer=https://kubernetes.default \
    --service-account-key-file=pki/service-account.key \
    --service-account-signing-key-file=pki/service-account.key \
    --allow-privileged=true --kubelet-certificate-authority=pki/ca.crt \
    --kubelet-client-certificate=pki/apiserver-kubelet-client.crt \
    --kubelet-client-key=pki/apiserver-kubelet-client.key \
    --feature-gates="${APISERVER_FEATURE_GATES:-}" "${own[@]}"
  wait_for 90 kube-apiserver kubectl get --raw /readyz
  wait_for 30 namespaces kubectl get namespaces default kube-node-lease
  kubectl apply -f - >>log/kubectl.log <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: viewer}
rules:
- {apiGroups: [""], resources: [nodes, pods, pods/log], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/exec, pods/attach, pods/portforward], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: viewer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: viewer}]
YAML
}

# What is outside of a machine: an address that is not loopback's, and a way to all others.
make_network() {
  [ "$(readlink /proc/self/ns/net)" != "$(readlink /proc/1/ns/net)" ] ||
    die 'CONTROLLERS=1 wants a network namespace of its own: unshare --net'
  ip link set lo up
  ip link add world type veth peer name beyond
  ip address add "$outside/24" dev world
  ip link set world up
  ip link set beyond up
  ip route add default via "${outside%.*}.1" dev world
}

start_controllers() {
  start kube-controller-manager "$kubernetes/kube-controller-manager" --kubeconfig=admin.kubeconfig \
    --leader-elect=false --secure-port=0 --root-ca-file=pki/ca.crt \
    --service-account-private-key-file=pki/service-account.key
  start kube-scheduler "$kubernetes/kube-scheduler" --kubeconfig=admin.kubeconfig \
    --leader-elect=false --secure-port=0
  # It finds nft by its name. What conntrack may do at most is the whole machine's.
  PATH=$parts/nft:$PATH start kube-proxy "$kubernetes/kube-proxy" --kubeconfig=admin.kubeconfig \
    --hostname-override=localhost --proxy-mode=nftables --conntrack-max-per-core=0 \
    --detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=veth
  wait_for 60 'the service account' kubectl get serviceaccount default
}

# ── The node ─────────────────────────────────────────────────────────────────────────────────────

# The node lives in mount and PID namespaces of its own. When their first process ends, the kernel
# ends every shim and container and drops every mount: nothing can outlive `down`.
start_node() {
  write_containerd_config
  [ -n "$ONLY" ] || write_kubelet_config
  start unshare unshare --mount --pid --fork --kill-child --mount-proc bash "$self" node-inside "$dir"
  wait_for 30 node test -e containerd/ready
  local name pid
  # As the rest of the machine knows them, for `down` and for tests that end one of them.
  pgrep -P "$(cat pids/unshare)" >pids/node
  while read -r name pid; do echo "$pid" >"pids/$name"; done < <(name_processes)
}

# Each program of the node's with its process id, by the log that it writes.
name_processes() {
  local pid log
  for pid in $(pgrep -P "$(cat pids/node)"); do
    log=$(readlink "/proc/$pid/fd/2")
    case $log in */containerd.log | */kubelet.log | */face.log | */registry.log)
      log=${log##*/}
      echo "${log%.log} $pid"
      ;;
    esac
  done
}

start_pods() {
  wait_for 60 node node_is_ready
  kubectl apply -f - >>log/kubectl.log <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: box, namespace: default, labels: {app: box}}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - {name: box, image: localhost/box:1, imagePullPolicy: Never, command: [sleep, "2147483647"]}
---
apiVersion: v1
kind: Pod
metadata: {name: gnu, namespace: default, labels: {app: gnu}}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
  - {name: gnu, image: localhost/gnu:1, imagePullPolicy: Never, command: [sleep, "2147483647"]}
YAML
  kubectl wait --for=condition=Ready --timeout=60s pod/box pod/gnu >>log/kubectl.log
}

filled_in() { # COMMAND
  local command=${1//'{dir}'/$dir}
  command=${command//'{face}'/$face_socket}
  echo "${command//'{containerd}'/$containerd_socket}"
}

restart() { # NAME
  local words
  mapfile -d '' words <"machine/$1.words"
  # If nobody has ended it yet.
  end "$1"
  [ "$1" != kube-apiserver ] || {
    start "$1" "${words[@]}"
    wait_for 90 "$1" kubectl get --raw /readyz
    return
  }
  [ "$1" != face ] || rm -f "$face_socket"
  start "$1-again" nsenter --target "$(cat pids/node)" --mount --pid --wdns="$dir" "${words[@]}"
  wait_for 10 "$1" pgrep -P "$(cat "pids/$1-again")"
  pgrep -P "$(cat "pids/$1-again")" >"pids/$1" || die "$1 has ended at once; see $dir/log"
  case $1 in
  containerd) wait_for 30 containerd ctr version ;;
  face) wait_for 10 face test -S "$face_socket" ;;
  esac
}

# A program that goes with whoever has started it, however that one ends; nsenter alone would leave it.
enter() { # COMMAND...
  exec nsenter --target "$(cat pids/node)" --mount --pid --wdns="$dir" setpriv --pdeathsig TERM "$@"
}

node_is_ready() {
  [ "$(kubectl get node localhost -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

# The first process in the namespaces: starts the node, adopts its orphans, and ends it on SIGTERM.
node_inside() {
  # As on a machine that systemd has started: what is mounted here, pods may be shown.
  mount --make-rshared /
  # kubelet and CNI set these for the whole machine; here they get copies to write to. (Pods and
  # this machine reach each other without forwarding.)
  mkdir -p sysctl
  local sysctl copy
  for sysctl in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes net/ipv4/ip_forward; do
    copy=sysctl/${sysctl//\//.}
    cat "/proc/sys/$sysctl" >"$copy"
    mount --bind "$copy" "/proc/sys/$sysctl"
  done
  # Paths that are written into these programs; here they lead into DIR. (With a /run/netns of its
  # own, an `ip netns` elsewhere does not pin the pods' namespaces either.)
  local path
  for path in run/containerd run/netns var/lib/cni var/lib/kubelet var/log/pods var/log/containers; do
    mkdir -p "/$path" "machine/$path"
    mount --bind "machine/$path" "/$path"
  done

  local started=()
  inside containerd "$containerd/containerd" --config "$dir/containerd/config.toml"
  wait_for 30 containerd ctr version
  local image
  for image in image/box.tar image-gnu/gnu.tar; do
    ctr --namespace k8s.io images import "$parts/$image"
  done
  [ -z "$ONLY" ] || start_registry
  if [ -n "${FACE:-}" ]; then
    local face
    read -r -a face < <(filled_in "$FACE")
    inside face "${face[@]}"
    wait_for 10 face test -S "$face_socket"
  fi
  [ -n "$ONLY" ] || start_kubelet
  # The node is there until it is ended, also once a test has ended all that was started here.
  sleep infinity &
  started+=($!)
  trap 'kill "${started[@]}" 2>/dev/null || true' TERM
  : >containerd/ready
  # `wait` also returns when the trap ran; the second one is for their end.
  wait || true
  wait || true
}

inside() { # NAME COMMAND...
  printf '%s\0' "${@:2}" >"machine/$1.words"
  "${@:2}" >"log/$1.log" 2>&1 &
  started+=($!)
}

ctr() { "$containerd/ctr" --address "$containerd_socket" "$@"; }

# Its images have the names that they have in registries of the world; whoever pulls gets them here.
start_registry() {
  inside registry python3 "$here/registry.py" "$parts/critest-images" "$dir/containerd/registry"
  wait_for 10 registry test -s containerd/registry
  mkdir -p containerd/registries/_default
  cat >containerd/registries/_default/hosts.toml <<TOML
[host."http://$(cat containerd/registry)"]
  capabilities = ["pull", "resolve"]
TOML
}

start_kubelet() {
  local own=()
  # Later ones have this in their configuration, and know no other kind of runtime.
  [ "$KUBERNETES" != 1.20 ] ||
    own+=(--container-runtime=remote --container-runtime-endpoint="$RUNTIME_ENDPOINT")
  # shellcheck disable=SC2086  # flags are split at spaces
  inside kubelet "$kubernetes/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$dir/node.kubeconfig" \
    --root-dir="$dir/kubelet" --cert-dir="$dir/kubelet/pki" --hostname-override=localhost --v=2 \
    "${own[@]}" ${KUBELET_ARGS:-}
}

write_containerd_config() {
  mkdir -p containerd/cni
  # An OOM score below one's own needs CAP_SYS_RESOURCE, which machines of CI often lack.
  local runc='runtime_type = "io.containerd.runc.v2"'
  local of_all="root = \"$dir/containerd/root\"
state = \"$dir/containerd/state\"
[grpc]
  address = \"$containerd_socket\"
${CONTAINERD_GRPC:-}
[ttrpc]
  address = \"$containerd_socket.ttrpc\""
  if [ "$CONTAINERD" = old ]; then
    cat >containerd/config.toml <<TOML
version = 2
$of_all
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$parts/cni"
  conf_dir = "$dir/containerd/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "$dir/containerd/registries"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  $runc
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "$parts/bin/runc"
TOML
  else
    cat >containerd/config.toml <<TOML
version = 3
$of_all
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "$dir/containerd/registries"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["$parts/cni"]
  conf_dir = "$dir/containerd/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  $runc
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "$parts/bin/runc"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
TOML
  fi
  cat >containerd/cni/pods.conflist <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {
  "type": "host-local", "dataDir": "$dir/containerd/addresses",
  "ranges": [[{"subnet": "${POD_SUBNET:-10.88.0.0/24}"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
}

write_kubelet_config() {
  local gates=${KUBELET_FEATURE_GATES:+, $KUBELET_FEATURE_GATES}
  gates=${gates//,/, } && gates=${gates//=/: }
  local own
  own="containerRuntimeEndpoint: $RUNTIME_ENDPOINT
failCgroupV1: false
localStorageCapacityIsolation: false
# Errors at things that only a whole machine allows are warnings with this gate.
featureGates: {KubeletInUserNamespace: true$gates}"
  # What 1.20 knows of these; it has the endpoint as a flag.
  [ "$KUBERNETES" != 1.20 ] || own="featureGates: {LocalStorageCapacityIsolation: false$gates}"
  cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: $KUBELET_PORT
readOnlyPort: 0
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $dir/pki/kubelet-client-ca.crt}}
authorization: {mode: AlwaysAllow}
tlsCertFile: $dir/pki/kubelet.crt
tlsPrivateKeyFile: $dir/pki/kubelet.key
resolvConf: /dev/null
volumePluginDir: $dir/kubelet/plugins
makeIPTablesUtilChains: false
# No systemd, no limits, and cgroups of either version.
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
nodeStatusUpdateFrequency: 1s
nodeStatusReportFrequency: 1s
$own
${KUBELET_CONFIG:-}
YAML
}

# ── Up and down ──────────────────────────────────────────────────────────────────────────────────

up() {
  [ ! -e pids ] || [ -z "$(ls pids)" ] || die "$dir is up already: run cluster.sh down $dir"
  # A Unix socket's path has 107 bytes at most, and containerd's come after this.
  [ ${#dir} -le 70 ] || die "the path $dir is too long for sockets in it"
  need_parts
  rm -rf etcd containerd kubelet machine
  mkdir -p pki log pids
  printf '%s=%s\n' CONTAINERD_SOCKET "$containerd_socket" RUNTIME_ENDPOINT "$RUNTIME_ENDPOINT" >./env
  trap 'echo "cluster.sh: not up; the logs are in $dir/log" >&2; down' EXIT
  [ -n "$ONLY" ] || start_control_plane
  [ -n "${NO_KUBELET:-}" ] || start_node
  [ -n "$ONLY${NO_KUBELET:-}" ] || start_pods
  trap - EXIT
}

need_parts() {
  local names=(tools)
  [ -n "$ONLY" ] && names+=(critest-images) || names+=(etcd kubectl-1.37)
  [ -n "${NO_KUBELET:-}" ] || names+=(runc cni image image-gnu)
  [ -z "$CONTROLLERS" ] || names+=(kube-controller-manager kube-scheduler kube-proxy nft)
  case $CONTAINERD in
  '') [ -n "${NO_KUBELET:-}" ] || names+=(containerd) ;;
  old) names+=(containerd-1.7) ;;
  *) die "there is no containerd $CONTAINERD" ;;
  esac
  case $KUBERNETES in
  '')
    [ -n "$ONLY" ] || names+=(kube-apiserver)
    [ -n "$ONLY${NO_KUBELET:-}" ] || names+=(kubelet)
    ;;
  1.20) names+=(kubernetes-1.20) ;;
  *) die "there is no Kubernetes $KUBERNETES" ;;
  esac
  [ -z "$ONLY" ] || [ "$ONLY" = containerd ] || die "there is nothing that is only $ONLY"
  need "${names[@]}"
}

start_control_plane() {
  choose_ports
  cat >>./env <<ENV
APISERVER_URL=$APISERVER_URL
APISERVER_PORT=$APISERVER_PORT
KUBELET_PORT=$KUBELET_PORT
ETCD_PORT=$ETCD_PORT
ENV
  [ -e pki/tokens.csv ] || make_keys
  kubeconfig admin.kubeconfig "$(by_certificate admin)"
  kubeconfig node.kubeconfig "$(by_certificate node)"
  kubeconfig viewer.kubeconfig 'token: viewer-token'
  [ -z "$CONTROLLERS" ] || make_network
  start_etcd
  start_apiserver
  [ -z "$CONTROLLERS" ] || start_controllers
}

down() {
  local name
  [ -e pids ] || return 0
  if [ -e pids/kubelet ] && is_ours "$(cat pids/kubelet)"; then
    # Gently first: then kubelet and the CNI plugin clean up after the pods themselves. (1.20 at times
    # takes a minute to say that a pod is gone.)
    kubectl delete pods --all --all-namespaces --timeout=8s --request-timeout=8s >>log/kubectl.log 2>&1 || true
  fi
  for name in node unshare kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd; do
    if [ -e "pids/$name" ]; then end "$name"; fi
  done
  rm -f pids/*
  # The cgroups of containers that were not ended gently, and the one above if no other's are there.
  local id
  for id in $(ls containerd/state/io.containerd.runtime.v2.task/k8s.io 2>/dev/null) ''; do
    rmdir "/sys/fs/cgroup/k8s.io/$id" /sys/fs/cgroup/*/k8s.io/"$id" 2>/dev/null || true
  done
}

end() { # NAME
  local name=$1 pid moment
  pid=$(cat "pids/$name")
  # A process id that has gone to somebody else is not ours to end.
  is_ours "$pid" || return 0
  kill "$pid"
  for moment in $(seq 100); do
    is_ours "$pid" || return 0
    [ "$moment" -lt 80 ] || kill -KILL "$pid" 2>/dev/null || true
    sleep 0.1
  done
  die "process $pid ($name) does not end"
}

is_ours() { # all that is started here writes to DIR/log
  case $(readlink "/proc/$1/fd/1") in "$dir"/log/*) ;; *) return 1 ;; esac
}

choose_ports() {
  local ports
  # All at once, so that no two are the same.
  read -r -a ports < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in sockets))')
  APISERVER_PORT=${APISERVER_PORT:-${ports[0]}}
  ETCD_PORT=${ETCD_PORT:-${ports[1]}}
  ETCD_PEER_PORT=${ETCD_PEER_PORT:-${ports[2]}}
  KUBELET_PORT=${KUBELET_PORT:-${ports[3]}}
  APISERVER_URL=https://127.0.0.1:$APISERVER_PORT
}

kubectl() { "$parts/kubectl/1.37/kubectl" --kubeconfig "$dir/admin.kubeconfig" "$@"; }

wait_for() { # SECONDS NAME COMMAND...
  local end=$((SECONDS + $1)) name=$2
  until "${@:3}" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "$name is not ready after $1 s; see $dir/log"
    sleep 0.1
  done
}

need() { BOWLINE_PARTS=$parts bash "$here/install.sh" --check "$@"; }

die() {
  echo "cluster.sh: $*" >&2
  exit 1
}

command=${1:-} dir=${2:-}
[ -n "$dir" ] || die 'usage: cluster.sh up DIR | cluster.sh down DIR | cluster.sh enter DIR COMMAND... |
  cluster.sh restart DIR NAME'
mkdir -p "$dir"
dir=$(readlink -f "$dir")
cd "$dir"

# An address that is nobody's (RFC 5737).
outside=192.0.2.2
ONLY=${ONLY:-} CONTROLLERS=${CONTROLLERS:-} CONTAINERD=${CONTAINERD:-} KUBERNETES=${KUBERNETES:-}
containerd=$parts/${CONTAINERD:+$CONTAINERD/}bin
kubernetes=$parts/${KUBERNETES:+k120/}bin
containerd_socket=$dir/containerd/containerd.sock
face_socket=$dir/containerd/face.sock
[ -n "${RUNTIME_ENDPOINT:-}" ] || {
  RUNTIME_ENDPOINT=unix://$containerd_socket
  [ -z "${FACE:-}" ] || RUNTIME_ENDPOINT=unix://$face_socket
}

case $command in
up) up ;;
down) down ;;
enter) enter "${@:3}" ;;
restart) restart "$3" ;;
node-inside) node_inside ;;
*) die "there is no command $command" ;;
esac
