package ec2test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script is a program in the agent's place: it says what it was given, and lives until it is told to power off.
const script = `#!/bin/sh
cp "$3" seen.json
echo "metadata at $AWS_EC2_METADATA_SERVICE_ENDPOINT"
echo up >> boots
setsid sleep 300 & echo $! > child
while [ ! -e stop ]; do sleep 0.02; done
touch poweroff
`

func TestGuestsLiveAsTheirInstancesDo(t *testing.T) {
	t.Parallel()
	w := Start(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "agent")
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	g := &Guests{World: w, Program: program, Dir: dir, Every: 20 * time.Millisecond,
		Config: func(data []byte) ([]byte, error) { return []byte(strings.TrimPrefix(string(data), "agent:")), nil },
		Fate: func(in Instance, _ int) Fate {
			return Fate{Dead: in.Tags[TagKey] == "dead"}
		}}
	g.Start(t)
	data := base64.StdEncoding.EncodeToString([]byte(`agent:{"name": "w1"}`))
	id := run(t, w, launch("tok", "k", "UserData", data)...)
	file := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(g.DirOf(id), name))
		return string(b)
	}
	boots := func(n int) func() bool { return func() bool { return strings.Count(file("boots"), "up") == n } }
	gone := func() bool {
		pid := strings.TrimSpace(file("child"))
		_, err := os.Stat("/proc/" + pid)
		return pid != "" && err != nil
	}
	call := func(action string) {
		t.Helper()
		must[*Node](t, action)(w.Client().Call(t.Context(), action, "InstanceId.1", id))
	}
	until(t, "the agent runs", boots(1))
	if text := file("seen.json"); !strings.Contains(text, `"name":"w1"`) || !strings.Contains(text, g.DirOf(id)+"/base") {
		t.Errorf("the agent was given %s", text)
	}
	shown := func(o time.Time) { // that moto runs an instance is seen a moment before it is shown as pending
		w.mu.Lock()
		w.overlay(id).state, w.overlay(id).until = pending, o
		w.mu.Unlock()
		g.look(t.Context())
	}
	shown(time.Now().Add(time.Hour))
	shown(time.Time{})
	if n := g.Boots(); n != 1 {
		t.Errorf("%d boots of a machine that was begun before it was shown as pending", n)
	}
	until(t, "the agent's child runs", func() bool { return file("child") != "" })
	call("StopInstances")
	until(t, "nothing runs in the stopped machine", gone)
	call("StartInstances")
	until(t, "the agent runs again", boots(2))

	if err := os.WriteFile(filepath.Join(g.DirOf(id), "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the machine has ended itself", func() bool { return len(audit(t, w).Leaked) == 0 })
	until(t, "nothing runs in it", gone)
	n := must[*Node](t, "GetConsoleOutput")(w.Client().Call(t.Context(), "GetConsoleOutput", "InstanceId", id))
	if text, err := base64.StdEncoding.DecodeString(n.S("output")); err != nil || !strings.Contains(string(text), "metadata at http://127.0.0.1:") {
		t.Errorf("the console says %q (%v)", text, err)
	}

	id = run(t, w, launch("tok2", "dead", "UserData", data)...)
	until(t, "the console tells of the panic", func() bool { return strings.Contains(file("console.log"), "panic") })
	if file("boots") != "" {
		t.Error("an agent runs in a dead machine")
	}
}
