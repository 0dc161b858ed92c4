package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/test/e2e/images"
)

func (a *app) pack() *cobra.Command {
	var img images.Image
	cmd := &cobra.Command{
		Use: "pack ARCHIVE PATH=FILE...", Short: "make an image of executables, to be loaded", Args: cobra.MinimumNArgs(2),
		Example: "  cluster pack --ref localhost/app:1 app.tar /app=bin/app",
		RunE: func(_ *cobra.Command, args []string) error {
			img.Files = make(map[string]string)
			for _, arg := range args[1:] {
				path, file, ok := strings.Cut(arg, "=")
				if !ok || !strings.HasPrefix(path, "/") {
					return fmt.Errorf("%q: it must be the path in the image, =, and the executable here", arg)
				}
				img.Files[path] = file
				if len(img.Entrypoint) == 0 {
					img.Entrypoint = []string{path}
				}
			}
			return images.Write(args[0], img)
		},
	}
	cmd.Flags().StringVar(&img.Ref, "ref", "", "the image's name, with tag")
	return cmd
}
