# Sourced by setup.sh. What the suite of the metrics, alerts and dashboards needs: Prometheus, promtool, and a program that
# knows Grafana's schema of dashboards.

# Debian's Prometheus, unpacked, as the package would start a service.
fetch_prometheus() {
    [ -x "$TOOLS/bin/prometheus" ] && [ -x "$TOOLS/bin/promtool" ] && return
    local unpacked=$TOOLS/prometheus.new name
    rm -rf "$unpacked"
    debian_unpack bookworm prometheus "$unpacked"
    mkdir -p "$TOOLS/bin"
    for name in prometheus promtool; do mv "$unpacked/usr/bin/$name" "$TOOLS/bin/$name"; done
    rm -rf "$unpacked"
}

# dashboard-check, from tests/tools/dashboards and the schema that its go.mod names.
build_dashboard_check() {
    local stamp=$TOOLS/dashboards.stamp log=$TOOLS/dashboards.log wanted
    wanted=$(cat tests/tools/dashboards/* <(go env GOVERSION) | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x "$TOOLS/bin/dashboard-check" ] && return
    mkdir -p "$TOOLS/bin"
    step "building dashboard-check"
    if ! (cd tests/tools/dashboards && go build -trimpath -ldflags="-s -w" -o "$TOOLS/bin/dashboard-check" .) >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "building dashboard-check failed; the whole log is in $log"
    fi
    printf '%s' "$wanted" >"$stamp"
}
