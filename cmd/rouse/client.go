package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/rouse-ci/rouse/master/api"
)

// clientFlags say which master a command talks to, and how it prints.
type clientFlags struct {
	state     string
	master    string
	tokenFile string
	ca        string
	json      bool
}

// defaultState is the state directory where nothing else is said: systemd's, or one in the current directory.
func defaultState() string {
	return cmp.Or(os.Getenv("ROUSE_STATE"), os.Getenv("STATE_DIRECTORY"), "rouse-state")
}

func (f *clientFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.state, "state", "", "the master's state `DIR`, where its local socket is (default $ROUSE_STATE or ./rouse-state)")
	c.Flags().StringVar(&f.master, "master", "", "`URL` of a master on another machine (default $ROUSE_MASTER)")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "`FILE` that holds the token for -master (default: the token is in $ROUSE_TOKEN)")
	c.Flags().StringVar(&f.ca, "ca", "", "`FILE` of certificates (PEM) to trust instead of the system's")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	_ = c.MarkFlagDirname("state")
}

// connect makes the client. It does not dial yet.
func (f *clientFlags) connect() (*api.Client, error) {
	address := cmp.Or(f.master, os.Getenv("ROUSE_MASTER"))
	if f.state != "" {
		if f.master != "" {
			return nil, usagef("-state and -master name two masters; give one of them")
		}
		address = ""
	}
	if address == "" {
		return api.NewClient(filepath.Join(cmp.Or(f.state, defaultState()), api.SocketName), "", nil)
	}
	token := os.Getenv("ROUSE_TOKEN")
	if f.tokenFile != "" {
		b, err := readSmall(f.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		token = strings.TrimSpace(string(b))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		b, err := readSmall(f.ca)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("certificates: %s holds none in PEM form", f.ca)
		}
	}
	return api.NewClient(address, token, conf)
}

// readSmall reads a file of at most 1 MiB.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// session is one run of a command that talks to a master.
type session struct {
	*app
	*api.Client
	json bool
	told atomic.Bool // that the master is away
}

// clientCmd completes a command that talks to a master.
func (a *app) clientCmd(c *cobra.Command, run func(ctx context.Context, s *session, given []string) error) *cobra.Command {
	f := &clientFlags{}
	f.register(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		client, err := f.connect()
		if err != nil {
			return err
		}
		defer client.Close()
		err = run(c.Context(), &session{app: a, Client: client, json: f.json}, given)
		if errors.Is(err, api.ErrNoMaster) {
			return fmt.Errorf("%w.\nStart one with `rouse master`, or say where it is with -state DIR or -master URL", err)
		}
		if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) && f.ca == "" {
			return fmt.Errorf("%w.\nIf no public authority has signed the master's certificate, say which ones to trust: -ca FILE", err)
		}
		return err
	}
	return c
}

// patience is how long a command that waits lets a master be away: long enough for a restart.
const patience = 2 * time.Minute

// away waits before a master that is away is asked again. It returns err when that makes no sense: when it is another kind of error, or when
// the master has been away since too long.
func (s *session) away(ctx context.Context, err error, since *time.Time) error {
	if !errors.Is(err, api.ErrBroken) && !errors.Is(err, api.ErrNoMaster) {
		return err
	}
	if since.IsZero() {
		*since = time.Now()
	}
	if s.told.CompareAndSwap(false, true) {
		fmt.Fprintln(s.stderr, s.paint(s.stderr, "90", "The master is away; waiting for it"))
	}
	if time.Since(*since) > patience {
		return err
	}
	return pause(ctx)
}

// show prints an answer: as JSON, or as text that is made from nothing else.
func (s *session) show(v any, text func(t *table)) error {
	if s.json {
		return s.printJSON(v)
	}
	t := newTable(s.app)
	text(t)
	return t.flush()
}

// said prints what an order did.
func (s *session) said(d api.Done) error {
	return s.show(d, func(t *table) { t.line("%s", d.Text) })
}

// number reads the number of a request or build: "7", "#7", or the noun before it as in "request 7".
func number(given []string, nouns ...string) (noun string, n int64, err error) {
	if len(given) == 2 {
		for _, w := range nouns {
			if given[0] == w || given[0] == w+"s" {
				noun = w
			}
		}
		if noun == "" {
			return "", 0, usagef("%q is not one of: %s", given[0], strings.Join(nouns, ", "))
		}
		given = given[1:]
	}
	n, err = strconv.ParseInt(strings.TrimPrefix(given[0], "#"), 10, 64)
	if err != nil || n < 1 {
		return "", 0, usagef("%q is not a number of a %s: these count from 1", given[0], cmp.Or(noun, strings.Join(nouns, " or ")))
	}
	return noun, n, nil
}
