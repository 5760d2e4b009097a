package worker

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/rouse-ci/rouse/worker/run"
)

const (
	maxInfoFiles = 100
	maxInfoFile  = 64 << 10
)

// ownPrefix is that of the agent's own variables, which hold its password or token.
const ownPrefix = "ROUSE_WORKER_"

// info is the answer to get_worker_info: Buildbot's keys (its masters turn most into properties) and nothing secret.
func (a *Agent) info() map[string]any {
	info := map[string]any{}
	readOSRelease(info)
	readInfoFiles(a.cfg.InfoDir, info)
	environ := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, ok := strings.Cut(kv, "=")
		if ok && !strings.HasPrefix(k, ownPrefix) && utf8.ValidString(kv) {
			environ[k] = v
		}
	}
	info["environ"] = environ
	info["system"] = "posix"
	info["basedir"] = a.cfg.Basedir
	info["numcpus"] = runtime.NumCPU()
	info["version"] = a.cfg.Version
	info["worker_commands"] = run.Commands()
	info["delete_leftover_dirs"] = false
	if h, err := os.Hostname(); err == nil && info["host"] == nil {
		info["host"] = h
	}
	return info
}

func readOSRelease(info map[string]any) {
	b, err := readSmall("/etc/os-release")
	if err != nil {
		return
	}
	for line := range strings.Lines(b) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && k != "" && k[0] != '#' {
			info["os_"+strings.ToLower(k)] = strings.Trim(v, `"'`)
		}
	}
}

// readInfoFiles makes each regular file of dir a key. What is not UTF-8, or too large, is skipped.
func readInfoFiles(dir string, info map[string]any) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries[:min(len(entries), maxInfoFiles)] {
		if !e.Type().IsRegular() {
			continue
		}
		if b, err := readSmall(filepath.Join(dir, e.Name())); err == nil && utf8.ValidString(b) && utf8.ValidString(e.Name()) {
			info[e.Name()] = b
		}
	}
}

func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, maxInfoFile))
	return string(b), err
}
