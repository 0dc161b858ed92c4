package flowlog

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// defaultLast is how many flows are shown if nobody says.
const defaultLast = 20

// Serve answers Flows: what is remembered and what open returns (nil: nothing is open), and with follow what comes.
func (l *Log) Serve(q *adminv1.FlowsRequest, open func() []*adminv1.Flow, out grpc.ServerStreamingServer[adminv1.Flow]) error {
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	var live <-chan *adminv1.Flow
	if q.GetFollow() {
		ch, ok := l.Follow(ctx)
		if !ok {
			return status.Errorf(codes.ResourceExhausted, "%d follow these flows already: end one of them", maxFollowers)
		}
		live = ch
	}
	for _, f := range l.past(q, open) {
		if err := out.Send(f); err != nil {
			return err
		}
	}
	if live == nil {
		return nil
	}
	for f := range live {
		if !Match(q, f) {
			continue
		}
		if err := out.Send(f); err != nil {
			return err
		}
	}
	return nil
}

// past returns what matches, oldest first, the newest `last` of it.
func (l *Log) past(q *adminv1.FlowsRequest, open func() []*adminv1.Flow) []*adminv1.Flow {
	all := l.Ended()
	if open != nil {
		all = append(all, open()...)
	}
	match := slices.DeleteFunc(all, func(f *adminv1.Flow) bool { return !Match(q, f) })
	slices.SortStableFunc(match, func(a, b *adminv1.Flow) int { return cmp.Compare(a.GetStartUnixNano(), b.GetStartUnixNano()) })
	last := int(q.GetLast())
	if last == 0 && q.GetSinceUnixNano() == 0 {
		last = defaultLast
	}
	if last > 0 && len(match) > last {
		match = match[len(match)-last:]
	}
	return match
}
