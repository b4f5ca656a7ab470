# Sourced by setup.sh. What the suites of the chart need: Helm, and the kinds of the Prometheus operator that the chart
# makes objects of.

# The module that carries the Prometheus operator's CRDs, and its checksum as a go.sum has it.
MONITORING_MODULE=github.com/prometheus-operator/prometheus-operator@v0.85.0
MONITORING_SUM=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=

# Helm, from the Go module that tests/tools/helm/go.mod names: a module apart from that of kube-apiserver, which is so
# built from what its own release was.
build_helm() {
    local stamp=$TOOLS/helm.stamp log=$TOOLS/helm.log wanted version
    wanted=$(cat tests/tools/helm/go.mod tests/tools/helm/go.sum <(go env GOVERSION) | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$TOOLS/bin/helm" ] && return
    mkdir -p "$TOOLS/bin"
    version=$(cd tests/tools/helm && go list -m -f '{{.Version}}' helm.sh/helm/v4) || fail "go cannot read tests/tools/helm/go.mod (see above)"
    step "building helm $version (about two minutes on two cores the first time)"
    if ! (cd tests/tools/helm && go build -trimpath -ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=$version" \
        -o "$TOOLS/bin/" tool) >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "building helm failed; the whole log is in $log"
    fi
    printf '%s' "$wanted" >"$stamp"
}

# target/tools/monitoring-crds: the CRDs of ServiceMonitor, PodMonitor and PrometheusRule.
fetch_monitoring_crds() {
    local folder=$TOOLS/monitoring-crds/${MONITORING_MODULE##*@} facts source kind
    [ -d "$folder" ] && return
    # Outside of any module, so that the version is the one asked for and no go.mod changes.
    facts=$(cd / && go mod download -json "$MONITORING_MODULE") || fail "cannot download $MONITORING_MODULE: $facts"
    [ "$(jq -r .Sum <<<"$facts")" = "$MONITORING_SUM" ] || fail "$MONITORING_MODULE is not what it was: $(jq -r .Sum <<<"$facts")"
    source=$(jq -r .Dir <<<"$facts")/example/prometheus-operator-crd
    rm -rf "$TOOLS/monitoring-crds" && mkdir -p "$folder.new"
    for kind in servicemonitors podmonitors prometheusrules; do
        install -m 644 "$source/monitoring.coreos.com_$kind.yaml" "$folder.new/"
    done
    mv "$folder.new" "$folder"
}
