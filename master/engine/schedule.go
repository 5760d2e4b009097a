package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/master/core"
)

const scheduleKey = "schedule."

// ScheduleMeta is the small fact that says when a scheduler was carried out last.
func ScheduleMeta(scheduler string, at time.Time) (key, value string) {
	return scheduleKey + scheduler, at.UTC().Format(time.RFC3339Nano)
}

// Schedules reads what ScheduleMeta wrote.
func Schedules(meta map[string]string) (out []core.ScheduleState) {
	for k, v := range meta {
		if name, ok := strings.CutPrefix(k, scheduleKey); ok {
			if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
				out = append(out, core.ScheduleState{Name: name, Last: at})
			}
		}
	}
	return out
}

// due has a scheduler's requests submitted, and delivers one Scheduled whatever happens.
func (e *Engine) due(ef core.Due) {
	ev := core.Scheduled{Scheduler: ef.Scheduler, At: ef.At, Error: "internal error"}
	defer func() {
		if v := recover(); v != nil {
			e.log.Error("engine: a scheduler panicked", "scheduler", ef.Scheduler, "panic", fmt.Sprint(v))
		}
		e.Deliver(ev)
	}()
	if e.o.Due == nil {
		ev.Error = "nobody submits for schedulers"
		return
	}
	ev.Error = ""
	if err := e.o.Due(ef.Scheduler, ef.At); err != nil {
		ev.Error = clip(err.Error())
		e.log.Error("engine: a scheduler could not submit", "scheduler", ef.Scheduler, "error", err)
	}
}
