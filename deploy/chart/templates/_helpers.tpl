{{- define "warren.labels" -}}
app.kubernetes.io/part-of: warren
app.kubernetes.io/version: {{ include "warren.tag" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "warren.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "warren.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What every container may not do. Capabilities are the container's own affair. */ -}}
{{- define "warren.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "warren.waypointImage" -}}
{{ printf "%s/warren-waypoint:%s" .Values.image.registry (include "warren.tag" .) }}
{{- end }}

{{- define "warren.waypointArgs" -}}
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- if .Values.waypoint.accessLog }}
- --access-log
{{- end }}
{{- with .Values.waypoint.tracing }}
{{- if .endpoint }}
- {{ printf "--trace-endpoint=%s" .endpoint | quote }}
- --trace-protocol={{ .protocol }}
- --trace-ratio={{ .ratio }}
{{- if .insecure }}
- --trace-insecure
{{- end }}
{{- end }}
{{- end }}
{{- end }}
