{{- /* Labels of everything; the argument is the name of the part. */ -}}
{{- define "outrigger.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: outrigger
{{- end }}

{{- /* dict root, name, tag, digest: the image by digest, else by tag, else by the version of the application. */ -}}
{{- define "outrigger.image" -}}
{{- $image := .root.Values.image -}}
{{- if .digest -}}
{{ $image.repository }}/{{ .name }}@{{ .digest }}
{{- else -}}
{{ $image.repository }}/{{ .name }}:{{ .tag | default $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "outrigger.sidecarImage" -}}
{{ include "outrigger.image" (dict "root" . "name" "outrigger" "digest" .Values.image.outriggerDigest) }}
{{- end }}

{{- /* dict root, tag: a version with a tag of its own is not the release that the digest names. */ -}}
{{- define "outrigger.collectorImage" -}}
{{- $digest := .tag | empty | ternary .root.Values.image.collectorDigest "" -}}
{{ include "outrigger.image" (dict "root" .root "name" "otlp-collector" "tag" .tag "digest" $digest) }}
{{- end }}

{{- define "outrigger.collectorConfig" -}}
{{ .Values.collector.config | default (.Files.Get "files/collector.yaml") }}
{{- end }}
