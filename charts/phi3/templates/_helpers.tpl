{{/* The chart's name, in labels. */}}
{{- define "phi3.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of the objects: short enough for every suffix that is added to it, here and by Kubernetes. */}}
{{- define "phi3.fullname" -}}
{{- $name := include "phi3.name" . }}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $default | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* The labels by which pods are found, which never change. Takes a dict of root and component. */}}
{{- define "phi3.selectorLabels" -}}
app.kubernetes.io/name: {{ include "phi3.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels of every object. Takes a dict of root and component. */}}
{{- define "phi3.labels" -}}
{{ include "phi3.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The entry of the model; one that is missing is left for requirements.yaml to refuse. */}}
{{- define "phi3.model" -}}
{{ get .Values.models .Values.model | default (dict "gpu" dict "startup" dict "resources" dict) | toYaml }}
{{- end }}

{{/* The MiB that a GPU needs for the model and its context. */}}
{{- define "phi3.gpuFloor" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $context := .Values.maxContext | default $model.context }}
{{- /* ceil(context * kvKiBPerToken / 1024 / 0.9), in whole numbers */}}
{{- $cache := div (add (mul $context $model.gpu.kvKiBPerToken 10) 9215) 9216 }}
{{- add $model.gpu.weightsMiB $cache 1536 }}
{{- end }}

{{/* The container's image. */}}
{{- define "phi3.image" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $default := eq .Values.weights.source "volume" | ternary "phi-3-runtime" $model.image }}
{{- .Values.image.registry }}/{{ .Values.image.repository | default $default }}:
{{- .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The volumes of weights and adapters that are not in the image, those of claims only on request. Takes a dict of root and claims. */}}
{{- define "phi3.modelVolumes" -}}
{{- $model := include "phi3.model" .root | fromYaml }}
{{- if eq .root.Values.weights.source "volume" }}
- name: weights
  image:
    reference: {{ .root.Values.weights.reference | default (printf "%s/%s:%s" .root.Values.image.registry $model.image .root.Chart.AppVersion) }}
    pullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}
{{- range $name, $adapter := .root.Values.adapters }}
{{- if $adapter.image }}
- name: adapter-{{ $name }}
  image:
    reference: {{ $adapter.image | quote }}
    pullPolicy: {{ $.root.Values.image.pullPolicy }}
{{- else if $.claims }}
- name: adapter-{{ $name }}
  persistentVolumeClaim:
    claimName: {{ $adapter.claimName | quote }}
    readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{/* Where those volumes are mounted. Takes a dict of root and claims. */}}
{{- define "phi3.modelMounts" -}}
{{- if eq .root.Values.weights.source "volume" }}
- {name: weights, mountPath: /weights, readOnly: true}
{{- end }}
{{- range $name, $adapter := .root.Values.adapters }}
{{- if or $adapter.image $.claims }}
- name: adapter-{{ $name }}
  mountPath: /adapters/{{ $name }}
  {{- with $adapter.path }}
  subPath: {{ . | quote }}
  {{- end }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{/* The Secret with the API keys, or nothing. */}}
{{- define "phi3.secretName" -}}
{{- $generated := .Values.auth.generate | ternary (printf "%s-api-keys" (include "phi3.fullname" .)) "" }}
{{- .Values.auth.existingSecret | default $generated }}
{{- end }}

{{/* The environment: what the chart sets and extraEnv does not, then extraEnv. */}}
{{- define "phi3.env" -}}
{{- $env := dict "CHAT_HOST" "0.0.0.0" "CHAT_PORT" .Values.containerPort "CHAT_DRAIN_SECONDS" .Values.drainSeconds }}
{{- with .Values.maxContext }}{{ $_ := set $env "CHAT_MAX_CONTEXT" . }}{{ end }}
{{- if include "phi3.secretName" . }}{{ $_ := set $env "CHAT_API_KEYS_FILE" "/run/secrets/phi3/api-keys" }}{{ end }}
{{- if eq .Values.weights.source "volume" }}
{{- $_ := set $env "CHAT_MODEL" (printf "/weights/models/%s" .Values.model) }}
{{- $_ := set $env "CHAT_NAME" .Values.model }}
{{- end }}
{{- $adapters := list }}
{{- range $name, $adapter := .Values.adapters }}
{{- $adapters = append $adapters (printf "%s=%v" $name (hasKey $adapter "weight" | ternary $adapter.weight 1)) }}
{{- end }}
{{- with $adapters }}
{{- $_ := set $env "CHAT_ADAPTERS_DIR" "/adapters" }}
{{- $_ := set $env "CHAT_ADAPTER_WEIGHTS" (join "," .) }}
{{- end }}
{{- range .Values.extraEnv }}{{ $_ := unset $env .name }}{{ end }}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toString (int $value)) | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the container asks for, GPUs included. */}}
{{- define "phi3.resources" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $resources := $model.resources }}
{{- if $model.gpu.count }}
{{- $limits := merge (dict "nvidia.com/gpu" $model.gpu.count) ($resources.limits | default dict) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* What a node's labels must say of its GPUs, as one match expression, or nothing. */}}
{{- define "phi3.gpuExpression" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- if not $model.gpu.count }}
{{- else if eq .Values.gpu.selector.mode "memory" }}
key: {{ .Values.gpu.selector.memoryLabel | quote }}
operator: Gt
values: [{{ sub (include "phi3.gpuFloor" .) 1 | quote }}]
{{- else if eq .Values.gpu.selector.mode "product" }}
key: {{ .Values.gpu.selector.productLabel | quote }}
operator: In
values: {{ toJson .Values.gpu.selector.products }}
{{- end }}
{{- end }}

{{/* The user's affinity, with the choice of GPU nodes in each of its terms, since one of them is enough for a node. */}}
{{- define "phi3.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- $expression := include "phi3.gpuExpression" . | fromYaml }}
{{- if $expression }}
{{- $node := $affinity.nodeAffinity | default dict }}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict }}
{{- $terms := list }}
{{- range $term := $required.nodeSelectorTerms | default (list dict) }}
{{- $expressions := append ($term.matchExpressions | default list) $expression }}
{{- $terms = append $terms (set $term "matchExpressions" $expressions) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{/* What pods of any kind have in common, as a part of their spec. Takes a dict of root and affinity. */}}
{{- define "phi3.pod" -}}
{{- $model := include "phi3.model" .root | fromYaml -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $own := $model.gpu.count | empty | ternary list .root.Values.gpu.tolerations }}
{{- with concat $own .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The labels that Prometheus gives to what the release's servers count. */}}
{{- define "phi3.series" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "phi3.fullname" . }}-[a-z0-9]+-[a-z0-9]+"
{{- end }}

{{/* How Prometheus reads the metrics. */}}
{{- define "phi3.endpoint" -}}
port: http
path: /metrics
interval: {{ .Values.metrics.monitor.interval }}
{{- with include "phi3.secretName" . }}
authorization:
  type: Bearer
  credentials:
    name: {{ . | quote }}
    key: {{ $.Values.metrics.monitor.secretKey | default $.Values.auth.secretKey | quote }}
{{- end }}
{{- end }}

{{/* The names that the chart itself has, and those of the adapters, as JSON. Takes a dict of root, names and prefix. */}}
{{- define "phi3.own" -}}
{{- $names := .names }}
{{- range $name, $adapter := .root.Values.adapters }}{{ $names = append $names (print $.prefix $name) }}{{ end }}
{{- toJson $names }}
{{- end }}

{{/* Those names in a list that occur twice. Takes a dict of root, items, the key of their name, and own names, which are taken. */}}
{{- define "phi3.twice" -}}
{{- $seen := .own }}
{{- range .items }}
{{- $name := get . $.key }}
{{- if has $name $seen }}{{ $name }} {{ end }}
{{- $seen = append $seen $name }}
{{- end }}
{{- end }}
