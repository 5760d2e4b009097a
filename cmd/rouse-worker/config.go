package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/worker"
)

const (
	envPrefix = "ROUSE_WORKER_"
	maxFile   = 1 << 20
)

// options are the flags of run.
type options struct {
	master, name, basedir, passwordFile, tokenFile, instance, onEnd, infoDir, ca, config, umaskText, watch string
	orphan                                                                                                 time.Duration
	logJSON, dhcp                                                                                          bool
	umask                                                                                                  int
}

func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.master, "master", "", "`URL` of the master's worker port, ws://HOST:PORT or wss://HOST:PORT")
	fs.StringVar(&o.name, "name", "", "the worker's `NAME` in the master's configuration")
	fs.StringVar(&o.basedir, "basedir", "", "`DIR` for builds and all other files; made if missing")
	fs.StringVar(&o.passwordFile, "password-file", "", "`FILE` with the worker's password")
	fs.StringVar(&o.tokenFile, "token-file", "", "`FILE` with the instance's token, instead of a password")
	fs.StringVar(&o.instance, "instance", "", "`KEY` of the instance this agent was started for")
	fs.DurationVar(&o.orphan, "orphan", 0, "end after this `DURATION` without a master (10m for an instance; otherwise never)")
	fs.StringVar(&o.onEnd, "on-end", "", "shell `COMMAND` to run after having ended as an orphan, such as poweroff")
	fs.StringVar(&o.infoDir, "info-dir", "", "`DIR` whose files describe this worker (BASEDIR/info)")
	fs.StringVar(&o.umaskText, "umask", "", "octal `MASK` for files that commands make, such as 022")
	fs.StringVar(&o.ca, "ca", "", "`FILE` with the certificates (PEM) that a wss:// master must have; the system's are used otherwise")
	fs.StringVar(&o.watch, "watch", "", "ask the metadata service of this `CLOUD` (ec2) whether the machine is taken back, and tell the master")
	fs.StringVar(&o.config, "config", "", "JSON `FILE` with these settings, mode 0600; smbios: takes them from the machine's OEM strings")
	fs.BoolVar(&o.dhcp, "dhcp", false, "first get an address for the machine's first network card, which no other program sees to")
	fs.BoolVar(&o.logJSON, "log-json", false, "log as JSON")
	return fs
}

// file is the configuration file.
type file struct {
	Master        string `json:"master"`
	Name          string `json:"name"`
	Token         string `json:"token"`
	Instance      string `json:"instance"`
	Basedir       string `json:"basedir"`
	OrphanSeconds int64  `json:"orphan_seconds"`
	OnEnd         string `json:"on_end"`
	CAPEM         string `json:"ca_pem"`
	Remove        bool   `json:"remove"`
	Watch         string `json:"watch"`
}

// configure makes the agent's configuration of flags, variables and the file, in this order of precedence.
func configure(args, environ []string) (worker.Config, options, error) {
	var cfg worker.Config
	o := options{umask: -1}
	fs := o.flags()
	if err := fs.Parse(args); err != nil {
		return cfg, o, wrongUsage{err}
	}
	if fs.NArg() > 0 {
		return cfg, o, wrongUsage{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	env, err := fromEnv(fs, environ)
	if err != nil {
		return cfg, o, err
	}
	if o.dhcp {
		if err := connect(o.config == fromSMBIOS && isToWait()); err != nil { // whoever has a console there sees it; the master sees that nobody comes
			fmt.Fprintln(os.Stderr, "rouse:", err)
		}
	}
	var f file
	if o.config != "" {
		if f, err = readConfig(o.config); err != nil {
			return cfg, o, err
		}
	}
	secret, err := secret(&o, env, f)
	if err != nil {
		return cfg, o, err
	}
	cfg = worker.Config{Master: cmp.Or(o.master, f.Master), Name: cmp.Or(o.name, f.Name), Secret: secret, Instance: cmp.Or(o.instance, f.Instance),
		Basedir: cmp.Or(o.basedir, f.Basedir), InfoDir: o.infoDir, OnEnd: cmp.Or(o.onEnd, f.OnEnd),
		Orphan: cmp.Or(o.orphan, time.Duration(f.OrphanSeconds)*time.Second), Watch: cmp.Or(o.watch, f.Watch), Metadata: metadata(environ)}
	if cfg.TLS, err = roots(o.ca, f.CAPEM); err != nil {
		return cfg, o, err
	}
	if o.umaskText != "" {
		mask, err := strconv.ParseUint(o.umaskText, 8, 9)
		if err != nil {
			return cfg, o, wrongUsage{fmt.Errorf("-umask %q is not an octal number up to 777", o.umaskText)}
		}
		o.umask = int(mask)
	}
	return cfg, o, check(cfg)
}

// fromEnv sets the flags that were not given from ROUSE_WORKER_ variables and returns the secrets' variables.
func fromEnv(fs *flag.FlagSet, environ []string) (map[string]string, error) {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	secrets := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		name, ok := strings.CutPrefix(k, envPrefix)
		if !ok || v == "" {
			continue
		}
		if name == "PASSWORD" || name == "TOKEN" {
			secrets[name] = v
			continue
		}
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if fs.Lookup(name) == nil || given[name] {
			continue
		}
		if err := fs.Set(name, v); err != nil {
			return nil, wrongUsage{fmt.Errorf("variable %s: %w", k, err)}
		}
	}
	return secrets, nil
}

// metadata is where the metadata service is, if the variable that AWS's own tools know says so.
func metadata(environ []string) string {
	url := ""
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "AWS_EC2_METADATA_SERVICE_ENDPOINT="); ok {
			url = v
		}
	}
	return url
}

func readConfig(path string) (file, error) {
	var f file
	read := func() ([]byte, error) { return readPrivate(path) }
	if path == fromSMBIOS {
		read = readSMBIOS
	}
	b, err := read()
	if err != nil {
		return f, fmt.Errorf("-config: %w", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return f, fmt.Errorf("-config %s: %w", path, err)
	}
	if f.OrphanSeconds > int64(365*24*time.Hour/time.Second) {
		return f, fmt.Errorf("-config %s: orphan_seconds is more than a year", path)
	}
	if path == fromSMBIOS && f.Name != "" {
		beCalled(f.Name)
	}
	if f.Remove && path != fromSMBIOS {
		if err := os.Remove(path); err != nil {
			return f, fmt.Errorf("-config: the file holds a secret and cannot be removed: %w", err)
		}
	}
	return f, nil
}

// secret finds the password or token: files first, then variables, then the configuration file.
func secret(o *options, env map[string]string, f file) (string, error) {
	if o.passwordFile != "" && o.tokenFile != "" {
		return "", wrongUsage{errors.New("give -password-file or -token-file, not both")}
	}
	for name, path := range map[string]string{"password-file": o.passwordFile, "token-file": o.tokenFile} {
		if path == "" {
			continue
		}
		b, err := readPrivate(path)
		if err != nil {
			return "", fmt.Errorf("-%s: %w", name, err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	return cmp.Or(env["TOKEN"], env["PASSWORD"], f.Token), nil
}

// readPrivate reads a file that holds a secret, and refuses one that others can read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a secret and others can read it (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

func roots(path, pem string) (*tls.Config, error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("-ca: %w", err)
		}
		pem = string(b)
	}
	if pem == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, fmt.Errorf("no certificate in %s: PEM blocks \"CERTIFICATE\" are wanted", cmp.Or(path, "ca_pem"))
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func check(cfg worker.Config) error {
	var missing []string
	for _, f := range []struct{ name, value string }{{"-master", cfg.Master}, {"-name", cfg.Name}, {"-basedir", cfg.Basedir},
		{"-password-file or -token-file", cfg.Secret}} {
		if f.value == "" {
			missing = append(missing, f.name)
		}
	}
	if missing != nil {
		return wrongUsage{fmt.Errorf("missing: %s", strings.Join(missing, ", "))}
	}
	if cfg.Watch != "" && cfg.Watch != worker.WatchEC2 {
		return wrongUsage{fmt.Errorf("-watch %q is not known; it can be %q", cfg.Watch, worker.WatchEC2)}
	}
	if strings.Contains(cfg.Name, ":") {
		return wrongUsage{fmt.Errorf("-name %q must not contain a colon", cfg.Name)}
	}
	u, err := url.Parse(cfg.Master)
	if err != nil || u.Host == "" || (u.Scheme != "ws" && u.Scheme != "wss") {
		return wrongUsage{fmt.Errorf("-master %q is not a URL such as ws://ci.example.org:9989", cfg.Master)}
	}
	return nil
}
