{{- define "realm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Room is left for "-operator" and the name of a pool. */}}
{{- define "realm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "realm.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "realm.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "realm.operator" -}}{{ include "realm.fullname" . }}-operator{{- end -}}
{{- define "realm.agent" -}}{{ include "realm.fullname" . }}-agent{{- end -}}

{{/* The name by which agents reach operators, and their certificate is for. */}}
{{- define "realm.linkHost" -}}
{{ include "realm.operator" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "realm.doorHost" -}}
{{ include "realm.agent" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Of everything in the release. */}}
{{- define "realm.instanceLabels" -}}
app.kubernetes.io/name: {{ include "realm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "realm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "realm.instanceLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: realm
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "realm.operatorLabels" -}}
{{ include "realm.instanceLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "realm.agentLabels" -}}
{{ include "realm.instanceLabels" . }}
app.kubernetes.io/component: agent
{{- end -}}

{{/* Takes a list of the root and an image. */}}
{{- define "realm.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* The Secret with the doors' certificate; empty where there is none. */}}
{{- define "realm.doorSecret" -}}
{{- if .Values.doors.tls.secretName -}}
{{ .Values.doors.tls.secretName }}
{{- else if .Values.doors.tls.certManager.enabled -}}
{{ include "realm.fullname" . }}-doors
{{- end -}}
{{- end -}}

{{/* The port of an address; that of its scheme where it names none. */}}
{{- define "realm.portOf" -}}
{{- $url := urlParse . -}}
{{- $named := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary 443 80 (eq $url.scheme "https")) $named -}}
{{- end -}}

{{- define "realm.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "realm.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "realm.validate" -}}
{{- $doors := .Values.doors -}}
{{- if and (include "realm.doorSecret" .) $doors.insecurePlaintext -}}
{{- fail "doors.insecurePlaintext goes with no certificate: empty doors.tls, or leave it out" -}}
{{- end -}}
{{- if not (or (include "realm.doorSecret" .) $doors.insecurePlaintext) -}}
{{- fail "the doors need a certificate: set doors.tls.secretName, or doors.tls.certManager.enabled; doors.insecurePlaintext=true is for networks that encrypt by themselves" -}}
{{- end -}}
{{- if and $doors.tls.certManager.enabled (not $doors.tls.certManager.issuerRef.name) -}}
{{- fail "doors.tls.certManager needs issuerRef.name" -}}
{{- end -}}
{{- include "realm.validatePools" . -}}
{{- end -}}

{{/* Of two pools that want one node, one would wait for it for ever. */}}
{{- define "realm.validatePools" -}}
{{- $shared := omit .Values.agent "pools" -}}
{{- $seen := dict -}}
{{- range $name, $own := .Values.agent.pools -}}
{{- $pool := mergeOverwrite (deepCopy $shared) (deepCopy (default dict $own)) -}}
{{- range $other, $its := $seen -}}
{{- if not (include "realm.areApart" (list $pool $its)) -}}
{{- fail (printf "agent.pools.%s and agent.pools.%s may select the same nodes, and a node has one agent: give each a nodeSelector with its own value of one label, or one of them a nodeAffinity; a pool that is not wanted goes with agent.pools.%s=null" $other $name $other) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $seen $name $pool -}}
{{- end -}}
{{- end -}}

{{/* Whether a label tells the nodes of two pools apart: empty if not. What an affinity of one of
     them selects is for whoever writes it to know. */}}
{{- define "realm.areApart" -}}
{{- $one := index . 0 -}}
{{- $other := index . 1 -}}
{{- if ne (toJson (dig "nodeAffinity" dict ($one.affinity | default dict))) (toJson (dig "nodeAffinity" dict ($other.affinity | default dict))) -}}
yes
{{- else -}}
{{- range $label, $value := $one.nodeSelector -}}
{{- if ne $value (get $other.nodeSelector $label | default $value) -}}
yes
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
