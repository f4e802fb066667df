#!/usr/bin/env bash
# Prints the gateway's objects as plain manifests, made from the chart beside this, for whoever has no
# Helm in the cluster:
#
#   render.sh [--name NAME] [--namespace NAMESPACE] [HELM FLAGS...] >gateway.yaml
#   render.sh --values mine.yaml --set replicas=3 | kubectl apply -f -
#
# Helm 3.14 or newer does it; HELM says where it is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=bowline-gateway namespace=bowline
while [ $# -gt 1 ]; do
  case $1 in
  --name) name=$2 ;;
  --namespace) namespace=$2 ;;
  *) break ;;
  esac
  shift 2
done

manifests=$("${HELM:-helm}" template "$name" "$here/chart" --namespace "$namespace" "$@")
cat <<YAML
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}
$manifests
YAML
