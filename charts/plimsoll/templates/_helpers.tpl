{{/* Names and labels, and the agent's configuration. */}}

{{- define "plimsoll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Shorter than a name may be: others are made of it. */}}
{{- define "plimsoll.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "plimsoll.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "plimsoll.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.selector" -}}
app.kubernetes.io/name: {{ include "plimsoll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end -}}

{{- define "plimsoll.labels" -}}
{{ include "plimsoll.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: plimsoll
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "plimsoll.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "plimsoll.fullname" .) -}}
{{- end -}}

{{- define "plimsoll.agents" -}}
{{- include "plimsoll.fullname" . }}-agents
{{- end -}}

{{- define "plimsoll.keySecret" -}}
{{- .Values.meshKey.existingSecret | default (printf "%s-mesh" (include "plimsoll.fullname" .)) -}}
{{- end -}}

{{- define "plimsoll.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the values say, and what the chart knows, as YAML. */}}
{{- define "plimsoll.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $store := default (dict "mesh" dict) $config.store -}}
{{- $cluster := default dict (default dict $config.discovery).kubernetes -}}
{{- if kindIs "map" $store -}}
{{- $mesh := default dict $store.mesh -}}
{{- if not (or $mesh.key_file $mesh.insecure) -}}
{{- $mesh = set $mesh "key_file" (printf "/run/secrets/plimsoll/%s" .Values.meshKey.secretKey) -}}
{{- end -}}
{{- if not (or $mesh.peers $cluster.agents) -}}
{{- $cluster = set $cluster "agents" (include "plimsoll.agents" .) -}}
{{- end -}}
{{- $store = dict "mesh" $mesh -}}
{{- end -}}
{{- $listen := ternary "0.0.0.0:9653" "127.0.0.1:9653" .Values.podMonitor.enabled -}}
{{- $api := default dict $config.api -}}
{{- $config = set $config "api" (dict "listen" ($api.listen | default $listen)) -}}
{{- $config = set $config "discovery" (dict "kubernetes" $cluster) -}}
{{- $config = set $config "store" $store -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Where the API is, for those on the node: host and port. */}}
{{- define "plimsoll.apiHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" (include "plimsoll.config" . | fromYaml).api.listen "" | trimAll "[]" -}}
{{- if eq $host "0.0.0.0" -}}127.0.0.1{{- else if eq $host "::" -}}::1{{- else -}}{{ $host }}{{- end -}}
{{- end -}}

{{- define "plimsoll.apiPort" -}}
{{- regexFind "[0-9]+$" (include "plimsoll.config" . | fromYaml).api.listen -}}
{{- end -}}

{{/* The mesh's port; empty where there is no mesh. */}}
{{- define "plimsoll.meshPort" -}}
{{- $store := (include "plimsoll.config" . | fromYaml).store -}}
{{- if kindIs "map" $store -}}
{{- regexFind "[0-9]+$" (default "0.0.0.0:9653" $store.mesh.bind) -}}
{{- end -}}
{{- end -}}

{{/* Whether the key of the mesh is needed, and not in a file of the user's own. */}}
{{- define "plimsoll.usesKeySecret" -}}
{{- $store := (include "plimsoll.config" . | fromYaml).store -}}
{{- if kindIs "map" $store -}}
{{- if hasPrefix "/run/secrets/plimsoll/" (default "" $store.mesh.key_file) -}}yes{{- end -}}
{{- end -}}
{{- end -}}
