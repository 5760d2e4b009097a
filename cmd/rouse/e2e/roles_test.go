package e2e

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// play is what the test's own program does when it is a step's command.
func play(role string) int {
	switch role {
	case "talk":
		return playTalk()
	case "daemon":
		return playDaemon()
	case "deaf":
		return playDeaf()
	}
	fmt.Fprintln(os.Stderr, "unknown role", role)
	return 2
}

// talkLines is what a talking step prints: lines that carry their number and a checksum, on both streams, some of them long, none of them ASCII
// only. Everything follows from the seed.
func talkLines(seed, n int, emit func(stderr bool, line []byte)) {
	rnd := rand.New(rand.NewPCG(uint64(seed), 1))
	words := []string{"größe", "世界", "naïve", "plain", "🙂", "\t", "x"}
	for i := range n {
		var b bytes.Buffer
		fmt.Fprintf(&b, "%06d", i)
		for range rnd.IntN(60) {
			b.WriteString(" " + words[rnd.IntN(len(words))])
		}
		if i%97 == 50 {
			b.WriteString(strings.Repeat("äö", 3000))
		}
		fmt.Fprintf(&b, " %08x\n", crc32.ChecksumIEEE(b.Bytes()))
		emit(i%3 == 1, b.Bytes())
	}
}

// talkText is all that a talking step prints on its streams.
func talkText(seed, n int) (stdout, stderr string) {
	var out, errs strings.Builder
	talkLines(seed, n, func(e bool, line []byte) {
		if e {
			errs.Write(line)
		} else {
			out.Write(line)
		}
	})
	return out.String(), errs.String()
}

// artifactBytes is the file that a talking step leaves in its directory.
func artifactBytes(seed, size int) []byte {
	b := make([]byte, size)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// witness says that a step's program has come to a point, on a file that no master and no agent touches.
func witness(what string) {
	f, err := os.OpenFile(os.Getenv("E2E_WITNESS"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s\n", what)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	_ = f.Close()
}

func playTalk() int {
	seed, lines, pace := envInt("E2E_SEED", 1), envInt("E2E_LINES", 10), time.Duration(envInt("E2E_PACE_MS", 0))*time.Millisecond
	name := os.Getenv("E2E_NAME")
	witness("begin " + name)
	if size := envInt("E2E_ARTIFACT", 0); size > 0 {
		if err := os.WriteFile("artifact.bin", artifactBytes(seed, size), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
	}
	talkLines(seed, lines, func(e bool, line []byte) {
		f := os.Stdout
		if e {
			f = os.Stderr
		}
		_, _ = f.Write(line)
		time.Sleep(pace)
	})
	witness("end " + name)
	return envInt("E2E_EXIT", 0)
}

// playDaemon leaves processes behind in every way that does not need a privilege: a background job, a session of its own, a double fork, with
// an empty environment, deaf to SIGTERM and SIGHUP, without their parents and with their standard streams elsewhere.
func playDaemon() int {
	if os.Getenv("E2E_DEPTH") == "" {
		for _, how := range []string{"background", "setsid", "twice"} {
			c := daemon(how)
			if err := c.Start(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 3
			}
			if how == "twice" {
				_ = c.Wait()
			}
		}
		hidden := exec.Command("/bin/sh", "-c", `(env -i setsid /bin/sh -c 'trap "" TERM HUP INT; echo "deaf $$" >>"$0"; exec sleep 120' "$E2E_WITNESS" &)`)
		if err := hidden.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		for range 500 { // until all four are deaf
			if b, _ := os.ReadFile(os.Getenv("E2E_WITNESS")); bytes.Count(b, []byte("\n")) == 4 {
				return 0
			}
			time.Sleep(10 * time.Millisecond)
		}
		return 4
	}
	if os.Getenv("E2E_DEPTH") == "twice" {
		c := daemon("setsid")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			return 3
		}
		return 0
	}
	return playDeaf()
}

func daemon(how string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "E2E_DEPTH="+how)
	c.Dir = "/"
	if how != "background" {
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	return c
}

// playDeaf ends only by SIGKILL, or after two minutes, so that a failed test leaves nothing for long.
func playDeaf() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	witness("deaf " + fmt.Sprint(os.Getpid()))
	time.Sleep(2 * time.Minute)
	return 0
}
