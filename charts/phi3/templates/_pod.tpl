{{/* The image of the server's container. */}}
{{- define "phi3.image" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $default := eq .Values.weights.source "volume" | ternary "phi-3-runtime" $model.image }}
{{- .Values.image.registry }}/{{ .Values.image.repository | default $default }}:
{{- .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The environment of the server's container; entries of extraEnv override those of the chart. */}}
{{- define "phi3.env" -}}
{{- $env := dict "CHAT_HOST" "0.0.0.0" "CHAT_PORT" .Values.containerPort "CHAT_DRAIN_SECONDS" .Values.drainSeconds }}
{{- with .Values.maxContext }}{{ $_ := set $env "CHAT_MAX_CONTEXT" . }}{{ end }}
{{- if include "phi3.authSecretName" . }}{{ $_ := set $env "CHAT_API_KEYS_FILE" "/run/secrets/phi3/api-keys" }}{{ end }}
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

{{/* The affinity from the values, with the GPU requirement added to each node selector term, because a node needs to match only one. */}}
{{- define "phi3.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- $expression := include "phi3.gpuMatchExpression" . | fromYaml }}
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

{{/* The part of a pod spec that all pods of the chart share. Takes a dict of root and affinity. */}}
{{- define "phi3.podSpec" -}}
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
{{- $gpuTolerations := $model.gpu.count | empty | ternary list .root.Values.gpu.tolerations }}
{{- with concat $gpuTolerations .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
