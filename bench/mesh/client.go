package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/warren-mesh/warren/bench/scene"
)

// clientArg is the argument of the copies of this program that are clients.
const clientArg = "__client"

// clientMain is the main of those copies.
func clientMain(ctx context.Context, args []string) (handled bool, err error) {
	if len(args) != 1 || args[0] != clientArg {
		return false, nil
	}
	return true, runJob(ctx, os.Stdin, os.Stdout)
}

// runClient has a job done in a network namespace, and calls begin and end around what is measured.
func runClient(ctx context.Context, netns string, j job, begin, end func()) (outcome, error) {
	c, err := scene.Start(ctx, netns, clientArg)
	if err != nil {
		return outcome{}, err
	}
	o, err := converse(c, j, begin, end)
	if stopErr := c.Stop(); err == nil && o.Problem == "" {
		err = stopErr
	}
	switch {
	case ctx.Err() != nil:
		return o, ctx.Err()
	case err != nil:
		return o, fmt.Errorf("client: %w %s", err, c.Errors())
	case o.Problem != "":
		return o, errors.New(o.Problem)
	}
	return o, nil
}

func converse(c *scene.Child, j job, begin, end func()) (o outcome, err error) {
	enc, dec := json.NewEncoder(c.In), json.NewDecoder(c.Out)
	if err := enc.Encode(j); err != nil {
		return o, err
	}
	if err := dec.Decode(&o); err != nil || o.Problem != "" || j.Kind == kindCheck {
		return o, err
	}
	begin()
	if err := enc.Encode("go"); err != nil {
		return o, err
	}
	err = dec.Decode(&o)
	end()
	return o, err
}
