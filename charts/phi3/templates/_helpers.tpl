{{/* The chart name, for the app.kubernetes.io/name label. */}}
{{- define "phi3.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The base name of all objects, truncated so that every suffix added by the chart or by Kubernetes fits. */}}
{{- define "phi3.fullname" -}}
{{- $name := include "phi3.name" . }}
{{- $default := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $default | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* The immutable labels that select pods. Takes a dict of root and component. */}}
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

{{/* The name of the Secret with the API keys, or nothing when authentication is off. */}}
{{- define "phi3.authSecretName" -}}
{{- $generated := .Values.auth.generate | ternary (printf "%s-api-keys" (include "phi3.fullname" .)) "" }}
{{- .Values.auth.existingSecret | default $generated }}
{{- end }}

{{/* The Prometheus label matchers that select the metrics of this release. */}}
{{- define "phi3.promSelector" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "phi3.fullname" . }}-[a-z0-9]+-[a-z0-9]+"
{{- end }}

{{/* The scrape endpoint of a ServiceMonitor or PodMonitor. */}}
{{- define "phi3.metricsEndpoint" -}}
port: http
path: /metrics
interval: {{ .Values.metrics.monitor.interval }}
{{- with include "phi3.authSecretName" . }}
authorization:
  type: Bearer
  credentials:
    name: {{ . | quote }}
    key: {{ $.Values.metrics.monitor.secretKey | default $.Values.auth.secretKey | quote }}
{{- end }}
{{- end }}

{{/* The names that the chart and its adapters reserve, as a JSON list. Takes a dict of root, names and prefix. */}}
{{- define "phi3.reservedNames" -}}
{{- $names := .names }}
{{- range $name, $adapter := .root.Values.adapters }}{{ $names = append $names (print $.prefix $name) }}{{ end }}
{{- toJson $names }}
{{- end }}

{{/* The names that occur twice in a list, separated by spaces. Takes a dict of items, the key of their names, and the reserved names. */}}
{{- define "phi3.duplicates" -}}
{{- $seen := .reserved }}
{{- range .items }}
{{- $name := get . $.key }}
{{- if has $name $seen }}{{ $name }} {{ end }}
{{- $seen = append $seen $name }}
{{- end }}
{{- end }}
