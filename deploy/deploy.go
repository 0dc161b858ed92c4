// Package deploy holds the Helm chart, so that agentctl installs the very chart that it was built with.
package deploy

import (
	"embed"
	"io/fs"
)

// all: because helpers start with an underscore.
//
//go:embed all:chart
var chart embed.FS

// Chart is the folder of the chart.
func Chart() fs.FS {
	sub, err := fs.Sub(chart, "chart")
	if err != nil {
		panic(err) // the name is a constant, and valid
	}
	return sub
}
