package master

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
	"github.com/rouse-ci/rouse/master/model"
	"github.com/rouse-ci/rouse/master/session"
	"github.com/rouse-ci/rouse/master/steplog"
	"github.com/rouse-ci/rouse/master/store"
	"github.com/rouse-ci/rouse/providers"
	"github.com/rouse-ci/rouse/worker/proto"
)

// What is kept with a build whose instance failed it is a step that nobody configured, after all those that somebody did. Its log is the console.
const (
	stepPreparation = "worker_preparation" // the build never began
	stepLoss        = "worker_loss"        // its instance was lost under it
	stepKind        = "instance"
	logConsole      = "console"
)

func (m *master) token(key model.InstanceKey) providers.Secret { return session.Token(m.key, key) }

// keepConsole keeps what an instance has printed, and why it was given up, with the builds that it failed.
func (m *master) keepConsole(ctx context.Context, about core.ReadConsole, out []byte, err error) {
	token := []byte(m.token(about.Key).Reveal())
	for i := range about.Builds {
		hide := append(hidden{m.secrets, m}.Hidden(ctx, about.Builds[i]), token) // a machine may print the environment that it was given
		if e := m.keepConsoleOf(ctx, &about.Builds[i], about, out, err, hide); e != nil {
			m.log.Warn("master: cannot keep what an instance has printed", "build", about.Builds[i].ID, "instance", string(about.Key), "err", e)
		}
	}
}

func (m *master) keepConsoleOf(ctx context.Context, b *core.Build, about core.ReadConsole, out []byte, readErr error, hide [][]byte) error {
	n, err := m.afterSteps(ctx, b)
	if err != nil {
		return err
	}
	now := time.Now()
	st := model.Step{Build: b.ID, Number: n, Name: stepPreparation, Kind: stepKind, StartedAt: b.AssignedAt, FinishedAt: now, Result: model.Retry}
	if b.Phase == model.BuildRunning {
		st.Name, st.StartedAt = stepLoss, b.StartedAt
	}
	if len(out) > 0 {
		if err := m.writeConsole(steplog.ID{Build: b.ID, Step: n, Name: logConsole}, out, hide); err != nil {
			return err
		}
		st.Logs = []string{logConsole}
	}
	st.Text = steplog.NewMasker(hide).Text(consoleText(b.ID, about, st.Name, len(out) > 0, readErr))
	return m.engine.Save(ctx, store.Tx{Time: now, Steps: []model.Step{st}})
}

// afterSteps is the number after the last step that the build could have.
func (m *master) afterSteps(ctx context.Context, b *core.Build) (int, error) {
	def, err := m.catalog.Builder(ctx, b.Generation, b.Builder)
	if err != nil {
		return 0, fmt.Errorf("builder %s of configuration %d: %w", b.Builder, b.Generation, err)
	}
	return len(def.Builder.Steps), nil
}

func (m *master) writeConsole(id steplog.ID, out []byte, hide [][]byte) error {
	w, err := m.logs.Create(id, hide)
	if errors.Is(err, fs.ErrExist) {
		return nil // an earlier look at the same instance
	}
	if err != nil {
		return err
	}
	return errors.Join(w.Write(proto.Stdout, out, int64(len(out))), w.Close())
}

// consoleText says what went wrong and where to look, for people.
func consoleText(id model.BuildID, about core.ReadConsole, step string, shown bool, err error) string {
	text := "instance " + string(about.Key) + ": " + about.Why
	if about.Detail != "" && !strings.Contains(about.Why, about.Detail) {
		text += "; its provider says: " + about.Detail
	}
	switch {
	case shown:
		text += fmt.Sprintf("; rouse logs %d %s shows what it printed", id, step)
	case err != nil:
		text += "; what it printed is not known: " + err.Error()
	default:
		text += "; it has printed nothing"
	}
	const most = 2000
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
