package ca

import (
	"context"
	"crypto"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	cav1 "github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
)

// withWaypoints is a CA that knows two waypoints of the namespace shop, of different Gateways, and an app.
func withWaypoints(t *testing.T) *fixture {
	t.Helper()
	f := serve(t, nil)
	for uid, account := range map[string]string{"way-1": "waypoint", "way-2": "other"} {
		id, err := identity.New("mesh", "shop", account)
		if err != nil {
			t.Fatal(err)
		}
		f.directory[uid] = Record{Node: "n1", Name: "shop/" + uid, ID: id, Enrolled: true, Waypoint: true}
	}
	return f
}

func calling(t *testing.T, uid string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), WorkloadHeader, uid)
}

// waypoint is a client with the SVID of way-1's identity.
func (f *fixture) waypoint(uid string) cav1.CAClient {
	f.t.Helper()
	key := newKey(f.t)
	chain, err := f.authority.IssueWorkload(f.directory[uid].ID, key.Public(), 0)
	return f.dial(f.svid(chain, key, err))
}

func TestWaypointJoinsAndRenewsItself(t *testing.T) {
	f := withWaypoints(t)
	token, err := f.tokens.CreateWaypoint("shop/way-1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	check := func(reply *cav1.SVID, key crypto.Signer) *identity.SVID {
		t.Helper()
		svid, err := identity.CheckReply(reply.GetChain(), key, "spiffe://mesh/ns/shop/sa/waypoint", f.authority.Bundle(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return svid
	}
	key, request := csr(t)
	reply, err := f.dial(nil).AttestWaypoint(t.Context(), &cav1.AttestWaypointRequest{WorkloadUid: "way-1", Proof: token, Csr: request})
	if err != nil {
		t.Fatal(err)
	}
	self := f.dial(check(reply, key))
	key, request = csr(t)
	reply, err = self.SignWorkload(calling(t, "way-1"), &cav1.SignWorkloadRequest{WorkloadUid: "way-1", Csr: request})
	if err != nil {
		t.Fatal(err)
	}
	check(reply, key)
}

// TestWaypointGetsNothingButItsOwn is a row for each way to ask for more.
func TestWaypointGetsNothingButItsOwn(t *testing.T) {
	f := withWaypoints(t)
	_, request := csr(t)
	nodeToken, err := f.tokens.Create("n1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	otherToken, err := f.tokens.CreateWaypoint("shop/way-2", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	attest := func(uid, proof string) error {
		_, err := f.dial(nil).AttestWaypoint(t.Context(), &cav1.AttestWaypointRequest{WorkloadUid: uid, Proof: proof, Csr: request})
		return err
	}
	sign := func(ctx context.Context, c cav1.CAClient, uid string) error {
		_, err := c.SignWorkload(ctx, &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: request})
		return err
	}
	_, renew := f.waypoint("way-1").RenewNode(calling(t, "way-1"), &cav1.RenewNodeRequest{Csr: request})
	key := newKey(t)
	chain, err := f.authority.IssueWorkload(web(t), key.Public(), 0)
	app := f.dial(f.svid(chain, key, err))
	for name, err := range map[string]error{
		"attest by nothing":                  attest("way-1", ""),
		"attest by a node's token":           attest("way-1", nodeToken),
		"attest by another waypoint's token": attest("way-1", otherToken),
		"attest as an app":                   attest("web-1", otherToken),
		"attest as nobody":                   attest("way-9", otherToken),
		"sign an app of its node":            sign(calling(t, "way-1"), f.waypoint("way-1"), "web-1"),
		"sign another waypoint":              sign(calling(t, "way-1"), f.waypoint("way-1"), "way-2"),
		"say to be another waypoint":         sign(calling(t, "way-2"), f.waypoint("way-1"), "way-2"),
		"say nothing":                        sign(t.Context(), f.waypoint("way-1"), "way-1"),
		"an app that says to be itself":      sign(calling(t, "web-1"), app, "web-1"),
		"an app that says to be a waypoint":  sign(calling(t, "way-1"), app, "way-1"),
		"renew a node":                       renew,
	} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := attest("way-2", otherToken); err != nil {
		t.Errorf("the token that others tried: %v", err)
	}
}
