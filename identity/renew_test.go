package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRepliesThatDoNotFitAreRefused(t *testing.T) {
	ca, foreign := newTestCA(t, nil), newTestCA(t, nil)
	good := func(csr []byte) *x509.CertificateRequest {
		request, err := x509.ParseCertificateRequest(csr)
		if err != nil {
			t.Fatal(err)
		}
		return request
	}
	for name, tt := range map[string]struct {
		answer signerFunc
		bundle *Bundle
		want   error
		text   string
	}{
		"another id":   {ca.signs(t, evilID, time.Hour), ca.bundle(t, "mesh"), ErrBadCertificate, `for "spiffe://mesh/ns/shop/sa/evil"`},
		"foreign root": {foreign.signs(t, webID, time.Hour), ca.bundle(t, "mesh"), ErrUntrusted, "unknown authority"},
		"no bundle":    {ca.signs(t, webID, time.Hour), nil, ErrUnknownTrustDomain, "mesh"},
		"expired":      {ca.signs(t, webID, -time.Second), ca.bundle(t, "mesh"), ErrUntrusted, "expired"},
		"another key": {func(context.Context, string, []byte) ([][]byte, error) {
			return [][]byte{ca.leaf(t, newKey(t).Public(), time.Hour, []string{webID}, nil)}, nil
		}, ca.bundle(t, "mesh"), ErrBadCertificate, "public key"},
		"nothing": {func(context.Context, string, []byte) ([][]byte, error) { return nil, nil }, ca.bundle(t, "mesh"), ErrNoCertificate, ""},
		"garbage": {func(context.Context, string, []byte) ([][]byte, error) { return [][]byte{{0x30, 0x82}}, nil }, ca.bundle(t, "mesh"), ErrBadCertificate, "certificate 0"},
		"no server": {func(_ context.Context, _ string, csr []byte) ([][]byte, error) {
			return [][]byte{ca.leaf(t, good(csr).PublicKey, time.Hour, []string{webID}, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })}, nil
		}, ca.bundle(t, "mesh"), ErrBadCertificate, "extended key usage"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := NewManager(ManagerConfig{Signer: tt.answer, Bundle: knows(tt.bundle), Log: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			svid, err := m.issue(t.Context(), "pod-1", webID)
			if svid != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("issue = %v, %v", svid, err)
			}
		})
	}
}

func TestRemovedRootBringsANewSVIDAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newTestCA(t, nil), newTestCA(t, nil)
		var bundle BundleStore
		bundle.Swap(old.bundle(t, "mesh"))
		signer := &timed{answer: old.signs(t, webID, time.Hour)}
		m := running(t, ManagerConfig{Signer: signer, Bundle: bundle.Load})
		m.Want("pod-1", mustParse(t, webID))
		synctest.Wait()
		m.BundleChanged() // to the same
		synctest.Wait()
		if len(signer.at) != 1 {
			t.Errorf("%d issuances though the SVID is trusted", len(signer.at))
		}
		signer.switchTo(next.signs(t, webID, time.Hour))
		bundle.Swap(next.bundle(t, "mesh"))
		m.BundleChanged()
		synctest.Wait()
		svid, err := m.Current(mustParse(t, webID))
		if err != nil || svid.Verify(next.bundle(t, "mesh"), time.Now()) != nil {
			t.Errorf("Current = %v, %v", svid, err)
		}
	})
}

func TestRestartServesFromTheCacheWithoutTheCA(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		web := mustParse(t, webID)
		cache, err := OpenCache(dir, time.Now(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		before := running(t, ManagerConfig{Signer: ca.signs(t, webID, time.Hour), Bundle: knows(ca.bundle(t, "mesh")), Cache: cache, Random: fixed(0.5)})
		before.Want("pod-1", web)
		synctest.Wait()
		first, err := before.Current(web)
		if err != nil {
			t.Fatal(err)
		}
		for name, bundle := range map[string]*Bundle{"same bundle": ca.bundle(t, "mesh"), "no bundle yet": nil, "another domain's": ca.bundle(t, "other.org")} {
			signer := &timed{answer: signerFunc(away)}
			after := running(t, ManagerConfig{Signer: signer, Bundle: knows(bundle), Cache: cache, Random: fixed(0.5)})
			after.Want("pod-2", web)
			if svid, err := after.Current(web); err != nil || svid.Serial() != first.Serial() {
				t.Errorf("%s: Current = %v, %v", name, svid, err)
			}
			synctest.Wait()
			if s := after.Snapshot()[0]; len(signer.at) != 0 || s.RenewAt.Before(time.Now().Add(20*time.Minute)) {
				t.Errorf("%s: %d issuances, status %+v", name, len(signer.at), s)
			}
		}
		rotated := running(t, ManagerConfig{Signer: signerFunc(away), Bundle: knows(newTestCA(t, nil).bundle(t, "mesh")), Cache: cache})
		rotated.Want("pod-2", web)
		if _, err := rotated.Current(web); !errors.Is(err, ErrNoSVID) {
			t.Errorf("an SVID of a removed root is served: %v", err)
		}
		before.Forget("pod-1")
		if _, ok := cache.Load(webID, time.Now()); ok {
			t.Error("a forgotten identity stays on disk")
		}
	})
}

func TestForgottenWhileUnderWayIsNotKept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		cache, err := OpenCache(dir, time.Now(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		slow := signerFunc(func(ctx context.Context, uid string, csr []byte) ([][]byte, error) {
			time.Sleep(time.Second)
			return ca.signs(t, webID, time.Hour)(ctx, uid, csr)
		})
		m := running(t, ManagerConfig{Signer: slow, Bundle: knows(ca.bundle(t, "mesh")), Cache: cache})
		m.Want("pod-1", mustParse(t, webID))
		time.Sleep(500 * time.Millisecond)
		m.Forget("pod-1")
		time.Sleep(time.Second)
		if _, ok := cache.Load(webID, time.Now()); ok || len(m.Snapshot()) != 0 {
			t.Errorf("it is kept: on disk %t, %+v", ok, m.Snapshot())
		}
	})
}

func TestHangingSignerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer := &timed{answer: signerFunc(func(ctx context.Context, _ string, _ []byte) ([][]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(nil), Random: fixed(0)})
		m.Want("pod-1", mustParse(t, webID))
		time.Sleep(16 * time.Second)
		if gaps := signer.gaps(); len(gaps) != 1 || gaps[0] != 15*time.Second+backoffFirst {
			t.Errorf("asked again after %v", gaps)
		}
	})
}

func TestRandomIsAShare(t *testing.T) {
	var least, most float64 = 1, 0
	for range 1000 {
		r := random()
		least, most = min(least, r), max(most, r)
	}
	if least < 0 || most >= 1 || least > 0.1 || most < 0.9 {
		t.Errorf("between %g and %g", least, most)
	}
}

func TestBacksOffWhileTheCAIsAway(t *testing.T) {
	steps := []float64{0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60}
	for random, factor := range map[float64]float64{0: 1, 1: 0.75} {
		synctest.Test(t, func(t *testing.T) {
			signer := &timed{answer: signerFunc(away)}
			m := running(t, ManagerConfig{Signer: signer, Bundle: knows(nil), Random: fixed(random)})
			m.Want("pod-1", mustParse(t, webID))
			time.Sleep(5 * time.Minute)
			for i, gap := range signer.gaps()[:len(steps)-3] {
				if want := steps[i] * factor; math.Abs(gap.Seconds()-want) > 0.001 {
					t.Errorf("retry %d after %s, want %g s", i, gap, want)
				}
			}
			if last := slices.Max(signer.gaps()); last > 60*time.Second {
				t.Errorf("a retry after %s", last)
			}
		})
	}
}

func TestDefaultJitterStaysInBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newTestCA(t, nil)
		signer := &timed{answer: ca.signs(t, webID, time.Hour)}
		m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh"))})
		m.Want("pod-1", mustParse(t, webID))
		time.Sleep(30 * time.Hour)
		gaps := signer.gaps()
		if least, most := slices.Min(gaps), slices.Max(gaps); least < 26*time.Minute || most > 33*time.Minute+time.Second || most-least < time.Minute {
			t.Errorf("renewed after %s to %s, want 27 to 33 minutes, spread", least, most)
		}
	})
}

func TestRenewsAtHalfLifeWithJitter(t *testing.T) {
	for random, share := range map[float64]float64{0: 0.45, 0.5: 0.5, 0.999999: 0.55} {
		t.Run(fmt.Sprint(random), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newTestCA(t, nil)
				signer := &timed{answer: ca.signs(t, webID, 10*time.Hour)}
				m := running(t, ManagerConfig{Signer: signer, Bundle: knows(ca.bundle(t, "mesh")), Random: fixed(random)})
				m.Want("pod-1", mustParse(t, webID))
				time.Sleep(20 * time.Hour)
				gaps := signer.gaps()
				if len(gaps) < 3 {
					t.Fatalf("%d renewals in 20 h", len(gaps))
				}
				for _, gap := range gaps {
					if math.Abs(gap.Hours()-10*share) > 0.01 {
						t.Errorf("renewed after %s, want %g of 10 h", gap, share)
					}
				}
			})
		})
	}
}
