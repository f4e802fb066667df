{{- define "bowline-gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bowline-gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bowline-gateway.labels" -}}
{{ include "bowline-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "bowline-gateway.serviceAccountName" -}}
{{- default (ternary (include "bowline-gateway.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "bowline-gateway.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" if a server behind is the cluster of this gateway, "" if not. */}}
{{- define "bowline-gateway.inCluster" -}}
{{- range .Values.upstreams }}{{ if .inCluster }}true{{ break }}{{ end }}{{ end }}
{{- end }}

{{- /* "true" if a server behind is named by a kubeconfig. */}}
{{- define "bowline-gateway.outside" -}}
{{- range .Values.upstreams }}{{ if .kubeconfigSecret }}true{{ break }}{{ end }}{{ end }}
{{- end }}

{{- /* What cannot work is refused here, so that no gateway starts and then fails. */}}
{{- define "bowline-gateway.check" -}}
{{- $names := dict }}
{{- range .Values.upstreams }}
{{- $name := default "" .name }}
{{- if eq (not .inCluster) (not .kubeconfigSecret) }}
{{- fail (printf "upstreams: %q has either inCluster or kubeconfigSecret" $name) }}
{{- end }}
{{- if hasKey $names $name }}{{ fail (printf "upstreams: two have the name %q" $name) }}{{ end }}
{{- $_ := set $names $name true }}
{{- end }}
{{- if eq .Values.clientIdentity "none" }}
{{- if .Values.allowImpersonation }}
{{- fail "allowImpersonation is about users with a certificate, and clientIdentity=none lets none on" }}
{{- end }}
{{- else if not .Values.clientCA.configMap }}
{{- fail (printf "clientIdentity=%s wants a CA in clientCA.configMap" .Values.clientIdentity) }}
{{- end }}
{{- if and (eq .Values.clientIdentity "request-header") (include "bowline-gateway.inCluster" .) }}
{{- fail "clientIdentity=request-header wants a front proxy's certificate in a kubeconfig: a service account has none" }}
{{- end }}
{{- with .Values.impersonation }}
{{- if and (eq $.Values.clientIdentity "impersonate") (eq .mode "legacy") (not .groups) }}
{{- fail "impersonation.mode=legacy wants impersonation.groups: without names, system:masters is among them" }}
{{- end }}
{{- if and (eq .mode "legacy") (has "system:masters" .groups) }}
{{- fail "impersonation.groups: a gateway that may act as system:masters may do everything" }}
{{- end }}
{{- end }}
{{- if and (eq .Values.backend "nodes") (not .Values.nodes.clientSecret) }}
{{- fail "backend=nodes wants a certificate for kubelets in nodes.clientSecret" }}
{{- end }}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) }}
{{- fail "tls.certManager wants an issuer in issuerRef.name" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress wants a host in ingress.hosts" }}
{{- end }}
{{- if and .Values.ingress.enabled (ne .Values.clientIdentity "none") }}
{{- fail "ingress ends TLS, so that no certificate of a user comes through: clientIdentity has to be none" }}
{{- end }}
{{- end }}

{{- define "bowline-gateway.args" -}}
- gateway
- --secure-port=6443
- --tls-cert-file=/etc/bowline/tls/tls.crt
- --tls-private-key-file=/etc/bowline/tls/tls.key
{{- range $index, $_ := .Values.upstreams }}
{{- $name := ternary (printf "%s=" .name) "" (not (empty .name)) }}
{{- if .inCluster }}
- --upstream={{ $name }}in-cluster
{{- else }}
- --upstream={{ $name }}/etc/bowline/upstreams/{{ $index }}/kubeconfig{{ with .context }}#{{ . }}{{ end }}
{{- end }}
{{- end }}
- --upstream-protocol={{ .Values.upstreamProtocol }}
- --client-identity={{ .Values.clientIdentity }}
{{- if ne .Values.clientIdentity "none" }}
- --client-ca-file=/etc/bowline/client-ca/ca.crt
{{- end }}
{{- if .Values.allowImpersonation }}
- --allow-impersonation
{{- end }}
{{- if eq .Values.backend "nodes" }}
- --backend=nodes
- --kubelet-client-certificate=/etc/bowline/kubelet-client/tls.crt
- --kubelet-client-key=/etc/bowline/kubelet-client/tls.key
{{- if .Values.nodes.ca.configMap }}
- --kubelet-certificate-authority=/etc/bowline/kubelet-ca/ca.crt
{{- end }}
{{- with .Values.nodes.allowAddresses }}
- --allow-node-addresses={{ join "," . }}
{{- end }}
{{- if not .Values.nodes.checkNames }}
- --disable-kubelet-cert-cn-validation
{{- end }}
{{- with .Values.nodes.preferredAddressTypes }}
- --kubelet-preferred-address-types={{ join "," . }}
{{- end }}
{{- end }}
{{- if .Values.http2Websockets }}
- --http2-websockets
{{- end }}
- --drain-delay={{ .Values.drain.delaySeconds }}s
- --drain={{ .Values.drain.seconds }}s
{{- with .Values.sessions }}
- --ping-interval={{ .pingInterval }}
- --silence-timeout={{ .silenceTimeout }}
- --idle-timeout={{ .idleTimeout }}
- --max-session-age={{ .maxAge }}
{{- end }}
{{- with .Values.limits }}
{{- with .sessionsPerUser }}
- --max-sessions-per-user={{ int64 . }}
{{- end }}
{{- with .sessionsPerNamespace }}
- --max-sessions-per-namespace={{ int64 . }}
{{- end }}
{{- with .sessionsPerPod }}
- --max-sessions-per-pod={{ int64 . }}
{{- end }}
{{- with .bytesPerSecond }}
- --max-bytes-per-second={{ int64 . }}
{{- end }}
- --max-unauthenticated-per-address={{ int64 .unauthenticatedPerAddress }}
{{- end }}
{{- if .Values.configuration }}
- --config=/etc/bowline/configuration/gateway.yaml
{{- end }}
- --v={{ .Values.logLevel }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
