package steplog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/rouse-ci/rouse/master/model"
)

// PruneOptions say what to keep.
type PruneOptions struct {
	MaxAge  time.Duration // since the last byte was written; 0 is for ever
	MaxSize int64         // bytes on disk of all logs; 0 is no limit
	Live    func(ID) bool // tells whether a log may still be needed by a build that runs; nil: none but those with a writer
	Now     time.Time     // zero is the time of the call
}

// Pruned says what was removed and what is left.
type Pruned struct {
	Files int
	Bytes int64
	Left  int64 // bytes
}

// Prune removes the oldest logs until the rest is young and small enough. It never removes a log that has a writer or is Live.
func (d *Dir) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	var res Pruned
	var old []file
	err := d.walk(ctx, func(f file) error {
		res.Left += f.size
		if !f.temp && (o.Live == nil || !o.Live(f.id)) {
			old = append(old, f)
		}
		return nil
	})
	if err != nil {
		return res, err
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	slices.SortFunc(old, func(a, b file) int { return cmp.Or(a.mod.Compare(b.mod), cmp.Compare(a.path, b.path)) })
	for _, f := range old {
		tooOld := o.MaxAge > 0 && now.Sub(f.mod) > o.MaxAge
		tooMuch := o.MaxSize > 0 && res.Left > o.MaxSize
		if !tooOld && !tooMuch {
			break // the others are younger
		}
		if err := ctx.Err(); err != nil {
			return res, err
		}
		switch err := d.remove(f); {
		case errors.Is(err, ErrBusy):
			continue
		case err != nil:
			return res, err
		}
		res.Files++
		res.Bytes += f.size
		res.Left -= f.size
	}
	return res, nil
}

// Remove removes all logs of the builds. Logs with a writer stay, and the error says so.
func (d *Dir) Remove(builds []model.BuildID) error {
	var errs []error
	for _, b := range builds {
		errs = append(errs, d.walkBuild(b, func(f file) error {
			if f.temp {
				return nil // the packer's; it notices that the log is gone
			}
			errs = append(errs, d.remove(f))
			return nil
		}))
	}
	return errors.Join(errs...)
}

// remove removes one file, and its directory if it was the last. Readers that have it open go on.
func (d *Dir) remove(f file) error {
	st, err := d.acquire(f.id)
	if err != nil {
		return err
	}
	defer d.release(st)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.writer {
		return fmt.Errorf("steplog: remove %s/%s: %w", d.path, f.path, ErrBusy)
	}
	if err := ignoreMissing(d.root.Remove(f.path)); err != nil {
		return fmt.Errorf("steplog: %w", err)
	}
	st.g = nil                          // a log that is created under the name later is another one
	_ = d.root.Remove(path.Dir(f.path)) // fails while other logs are in it
	return nil
}
