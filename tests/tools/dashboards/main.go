// Command dashboard-check holds Grafana dashboards against Grafana's schema, strictly: a field that the schema does not
// have, of the dashboard, a panel, its options or a query, is an error, as is a panel of a kind that the schema does not
// know. It prints one line for each problem and exits with 1 when there was any.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: dashboard-check FILE...")
		os.Exit(2)
	}
	plugins.RegisterDefaultPlugins()
	wrong := false
	for _, path := range os.Args[1:] {
		for _, problem := range check(path) {
			wrong = true
			fmt.Printf("%s: %s\n", path, problem)
		}
	}
	if wrong {
		os.Exit(1)
	}
}

func check(path string) []string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	if err := new(dashboard.Dashboard).UnmarshalJSONStrict(raw); err != nil {
		problems = append(problems, lines(err)...)
	}
	// The strict reading keeps no panels, so what they are is read again.
	var read dashboard.Dashboard
	if err := json.Unmarshal(raw, &read); err != nil {
		return append(problems, lines(err)...)
	}
	if err := read.Validate(); err != nil {
		problems = append(problems, lines(err)...)
	}
	for _, item := range read.Panels {
		switch {
		case item.Panel != nil:
			problems = append(problems, kind(item.Panel)...)
		case item.RowPanel != nil:
			for index := range item.RowPanel.Panels {
				problems = append(problems, kind(&item.RowPanel.Panels[index])...)
			}
		}
	}
	return problems
}

// Options of a panel of an unknown kind are not looked at, so it is a problem that the kind is unknown.
func kind(panel *dashboard.Panel) []string {
	if _, known := cog.ConfigForPanelcfgVariant(panel.Type); !known {
		return []string{fmt.Sprintf("there is no panel of type %q", panel.Type)}
	}
	return nil
}

// The schema's own errors are sometimes lists of none.
func lines(err error) []string {
	return strings.FieldsFunc(err.Error(), func(letter rune) bool { return letter == '\n' })
}
