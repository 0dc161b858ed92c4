package waypoint

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/waypoint/admin"
	"github.com/warren-mesh/warren/waypoint/authn"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/extauthz"
	"github.com/warren-mesh/warren/waypoint/limit"
	"github.com/warren-mesh/warren/waypoint/proxy"
	"github.com/warren-mesh/warren/waypoint/telemetry"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// assemble makes the parts and wires them together.
func (w *Waypoint) assemble() (err error) {
	w.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w.telemetry, err = telemetry.New(telemetry.Config{
		Gateway: w.cfg.Gateway, Pod: w.cfg.Namespace + "/" + w.cfg.Pod, Node: w.cfg.Node, Version: w.cfg.Version, Log: w.cfg.Log,
		AccessLog: w.cfg.AccessLog, Registerer: w.registry, Tracing: w.cfg.Tracing,
	})
	if err != nil {
		return err
	}
	w.streams = newStreams(w)
	w.tunnels = newTunnels(w)
	w.tunnels.take = w.streams.take
	w.dialer = newDialer(w)
	w.upstreams = upstream.New(upstream.Config{
		World: w.world, Dial: w.dialer.dial, Zone: w.cfg.Zone, Log: w.cfg.Log, Registerer: w.registry,
	})
	w.authn = authn.New(authn.Config{Log: w.cfg.Log})
	w.external = extauthz.New(extauthz.Config{Dial: w.dialService, Log: w.cfg.Log})
	w.proxy = proxy.New(proxy.Config{
		Authn: w.authn, Limiter: limit.New(), External: w.external,
		World: w.world, Upstreams: w.upstreams, Gateway: w.cfg.Gateway, ClientCertHeader: w.cfg.ClientCertHeader, Log: w.cfg.Log,
		Tracer: func(r *http.Request, c *exchange.Conn) proxy.Trace { return w.telemetry.Start(r, c) }, Sink: w.telemetry.Sink,
	})
	w.http = newHTTPServer(w.proxy, w.draining, w.cfg.Log)
	w.admin = w.newAdmin()
	return nil
}

// health answers a kubelet's probes.
func (w *Waypoint) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	mux.HandleFunc("/readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if why := w.notReady(); why != "" {
			http.Error(rw, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	return mux
}

// notReady says why no connection should be sent here, "" if one may be.
func (w *Waypoint) notReady() string {
	select {
	case <-w.draining:
		return "told to stop"
	default:
	}
	if w.feed.Status().Enforced == 0 {
		return "the controller has not said yet what the mesh looks like"
	}
	if _, err := w.manager.Current(w.id); err != nil {
		return "no SVID yet: " + err.Error()
	}
	return ""
}

func (w *Waypoint) metrics() http.Handler {
	return promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{})
}

// newAdmin is what the controller asks, over the relay.
func (w *Waypoint) newAdmin() adminv1.AdminServer {
	return admin.New(admin.Config{
		Gateway: w.cfg.Gateway, Pod: w.cfg.Namespace + "/" + w.cfg.Pod, Node: w.cfg.Node, Version: w.cfg.Version, Started: w.started,
		ID: w.id, Bundle: w.bundles.Load, Certs: w.manager, Feed: w.feed.Status, World: w.world, Telemetry: w.telemetry, Open: w.streams.records,
	})
}
