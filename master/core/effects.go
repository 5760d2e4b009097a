package core

import (
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// Effect is something to be done outside, after the batch's delta is durable. Effects are sealed.
// Each effect that carries an OpID delivers exactly one OpDone (ListInstances: one Listed), on success, failure, deadline or panic.
type Effect interface{ effect() }

type (
	// CreateInstance calls Provider.Create. The key and the worker's generation are already stored.
	CreateInstance struct {
		Op       model.OpID
		Provider string
		Worker   string
		Key      model.InstanceKey
		Place    string // the room that it is to be in; "": the provider chooses
	}

	// DestroyInstance calls Provider.Destroy.
	DestroyInstance struct {
		Op       model.OpID
		Provider string
		Key      model.InstanceKey
	}

	// CheckInstance calls Provider.Get.
	CheckInstance struct {
		Op       model.OpID
		Provider string
		Key      model.InstanceKey
	}

	// StopInstance calls Sleeper.Stop. The intent is stored. It is repeated until a CheckInstance shows the instance as stopped.
	StopInstance struct {
		Op        model.OpID
		Provider  string
		Key       model.InstanceKey
		Hibernate bool
	}

	// StartInstance calls Sleeper.Start. The intent is stored. It is repeated until a CheckInstance shows the instance as running.
	StartInstance struct {
		Op       model.OpID
		Provider string
		Worker   string
		Key      model.InstanceKey
	}

	// ReadConsole keeps with the builds what the instance that failed them has printed, as far as its provider can tell. A DestroyInstance of the same
	// key waits for it, but only for a few seconds. It has no result, and it is not repeated after a crash.
	ReadConsole struct {
		Provider string
		Worker   string
		Key      model.InstanceKey
		Builds   []Build
		Why      string // what went wrong
		Detail   string // what the provider last said of the instance
	}

	// TellInterrupted tells the provider that it has taken an instance back, so that it may put the next one elsewhere. It has no result.
	TellInterrupted struct {
		Provider string
		Key      model.InstanceKey
	}

	// ListInstances calls Provider.List and delivers one Listed.
	ListInstances struct {
		Op       model.OpID
		Provider string
	}

	// Admit tells a session that its Attached was accepted.
	Admit struct {
		Worker  string
		Session model.SessionID
	}

	// Hangup closes a session. A session that is not live any more is no error.
	Hangup struct {
		Worker  string
		Session model.SessionID
		Reason  string
		End     bool // the agent's instance is about to be destroyed: it shall kill its commands and end
	}

	// StartBuild starts (or, with Resume, takes over) a runner, which delivers exactly one BuildEnded.
	StartBuild struct {
		Build  Build
		Resume bool
	}

	// StopBuild tells a live runner to end. It still delivers its BuildEnded.
	StopBuild struct {
		Build  model.BuildID
		Result model.Result // Cancelled: an order; Retry: its worker is lost or its instance must end
		Reason string
	}

	// SetTimer asks for one TimerFired at a time. A later SetTimer with the same Name replaces it.
	SetTimer struct {
		Timer Timer
		At    time.Time
	}

	// Notify tells people. Kind is one of the Notice constants.
	Notify struct {
		Kind   string
		Worker string
		Text   string
	}

	// Due asks for the requests of a scheduler whose time has come. They are to be stored in one transaction with At as its last time, so that a crash
	// makes neither none of them nor twice as many; then a Scheduled is delivered.
	Due struct {
		Scheduler string
		At        time.Time
	}

	// Ended says that a request is done: whoever waits for it (a trigger step, `rouse force -wait`) may go on.
	Ended struct {
		Request model.RequestID
		Result  model.Result
	}
)

// Kinds of Notify.
const (
	NoticeMissing     = "missing"     // a worker did not attach in time, or a standard worker is gone
	NoticeBackoff     = "backoff"     // a worker has failed several times in a row
	NoticeInterrupted = "interrupted" // a request has lost its instance to the provider again and again
	NoticeOrphan      = "orphan"      // an instance that no record knows was found and is being destroyed
)

// Timer names one deadline. Gen makes a replaced timer recognisable.
type Timer struct {
	Name string
	Gen  uint64
}

func (CreateInstance) effect()  {}
func (DestroyInstance) effect() {}
func (CheckInstance) effect()   {}
func (ListInstances) effect()   {}
func (StopInstance) effect()    {}
func (StartInstance) effect()   {}
func (ReadConsole) effect()     {}
func (TellInterrupted) effect() {}
func (Admit) effect()           {}
func (Hangup) effect()          {}
func (StartBuild) effect()      {}
func (StopBuild) effect()       {}
func (SetTimer) effect()        {}
func (Notify) effect()          {}
func (Ended) effect()           {}
func (Due) effect()             {}
