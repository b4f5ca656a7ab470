// Checks Grafana dashboards against Grafana's own schema, built by `make setup`.
module holdfast.dev/tests/tools/dashboards

go 1.26.0

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
