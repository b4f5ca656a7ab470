{{/* The chart's name, for labels. */}}
{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/*
The prefix of the names of all objects: `fullnameOverride`, else the release's name, with the chart's name where it does
not hold that already. Short enough for the longest name that is made of it.
*/}}
{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the operator's objects: Deployment, Service, ClusterRole, Lease, ... */}}
{{- define "holdfast.operatorName" -}}
{{- printf "%s-operator" (include "holdfast.fullname" .) }}
{{- end }}

{{/* The name of the agents' objects: ClusterRole, Role, PodMonitor, ... */}}
{{- define "holdfast.agentName" -}}
{{- printf "%s-agent" (include "holdfast.fullname" .) }}
{{- end }}

{{/* The name of what `helm test` needs: pod, service account, roles. */}}
{{- define "holdfast.testName" -}}
{{- printf "%s-test" (include "holdfast.fullname" .) }}
{{- end }}

{{/* Chart name and version, as the label helm.sh/chart has it. */}}
{{- define "holdfast.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels of every object, without the component. */}}
{{- define "holdfast.labels" -}}
helm.sh/chart: {{ include "holdfast.chart" . }}
{{ include "holdfast.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: holdfast
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What tells the objects of this release from those of another; never changes. */}}
{{- define "holdfast.selectorLabels" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of the operator's objects. */}}
{{- define "holdfast.operatorLabels" -}}
{{ include "holdfast.labels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{/* What selects the operator's pods. */}}
{{- define "holdfast.operatorSelectorLabels" -}}
{{ include "holdfast.selectorLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of the agents' objects that the chart makes. */}}
{{- define "holdfast.agentLabels" -}}
{{ include "holdfast.labels" . }}
app.kubernetes.io/component: agent
{{- end }}

{{/* Labels of what `helm test` needs. */}}
{{- define "holdfast.testLabels" -}}
{{ include "holdfast.labels" . }}
app.kubernetes.io/component: test
{{- end }}

{{/* The name of the operator's service account. */}}
{{- define "holdfast.operatorServiceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "holdfast.operatorName" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The name of the agents' service account. */}}
{{- define "holdfast.agentServiceAccount" -}}
{{- if .Values.agent.serviceAccount.create }}
{{- default (include "holdfast.agentName" .) .Values.agent.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.agent.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The name of the service account of the pod of `helm test`. */}}
{{- define "holdfast.testServiceAccount" -}}
{{- include "holdfast.testName" . }}
{{- end }}

{{/* The ClusterRole by which the operator knows what to make owner of the objects that must go with this release. */}}
{{- define "holdfast.installation" -}}
{{- include "holdfast.operatorName" . }}
{{- end }}

{{/* The name of the Lease whose holder leads. */}}
{{- define "holdfast.leaseName" -}}
{{- default (include "holdfast.operatorName" .) .Values.leaderElection.leaseName }}
{{- end }}

{{/* The tag of both images where no other is given. */}}
{{- define "holdfast.defaultTag" -}}
{{- printf "v%s" .Chart.AppVersion }}
{{- end }}

{{/* Registry and repository of an image: (dict "image" .Values.image "root" .) */}}
{{- define "holdfast.imageRepository" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry }}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end }}{{ .image.repository }}
{{- end }}

{{/* The operator's image; a digest goes before a tag. */}}
{{- define "holdfast.image" -}}
{{- $repository := include "holdfast.imageRepository" (dict "image" .Values.image "root" .) }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default (include "holdfast.defaultTag" .) .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The pull secrets' names, those of `global` first, each once, as a JSON list. */}}
{{- define "holdfast.pullSecrets" -}}
{{- $names := list }}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets }}
{{- $names = append $names .name }}
{{- end }}
{{- uniq $names | toJson }}
{{- end }}

{{/* The port of the operator's metrics and probes. */}}
{{- define "holdfast.operatorPort" -}}
9466
{{- end }}
