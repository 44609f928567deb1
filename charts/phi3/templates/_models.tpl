{{/* The entry of the selected model; validate.yaml rejects a model without an entry. */}}
{{- define "phi3.model" -}}
{{ get .Values.models .Values.model | default (dict "gpu" dict "startup" dict "resources" dict) | toYaml }}
{{- end }}

{{/* The minimum GPU memory for the model and its context, in MiB. */}}
{{- define "phi3.minGpuMemoryMiB" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $context := .Values.maxContext | default $model.context }}
{{- /* ceil(context * kvKiBPerToken / 1024 / 0.9), in integer arithmetic */}}
{{- $cache := div (add (mul $context $model.gpu.kvKiBPerToken 10) 9215) 9216 }}
{{- add $model.gpu.weightsMiB $cache 1536 }}
{{- end }}

{{/* The node match expression for the model's GPU, or nothing if the chart does not select nodes. */}}
{{- define "phi3.gpuMatchExpression" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- if not $model.gpu.count }}
{{- else if eq .Values.gpu.selector.mode "memory" }}
key: {{ .Values.gpu.selector.memoryLabel | quote }}
operator: Gt
values: [{{ sub (include "phi3.minGpuMemoryMiB" .) 1 | quote }}]
{{- else if eq .Values.gpu.selector.mode "product" }}
key: {{ .Values.gpu.selector.productLabel | quote }}
operator: In
values: {{ toJson .Values.gpu.selector.products }}
{{- end }}
{{- end }}

{{/* The resources of the server's container, including its GPU. */}}
{{- define "phi3.resources" -}}
{{- $model := include "phi3.model" . | fromYaml }}
{{- $resources := $model.resources }}
{{- if $model.gpu.count }}
{{- $limits := merge (dict "nvidia.com/gpu" $model.gpu.count) ($resources.limits | default dict) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* The volumes with weights and adapters from outside the server's image. Takes a dict of root and claims, which includes volumes of claims. */}}
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

{{/* The mounts of the volumes in phi3.modelVolumes. Takes the same dict. */}}
{{- define "phi3.modelVolumeMounts" -}}
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
