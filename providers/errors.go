package providers

import (
	"context"
	"errors"
	"fmt"
)

// Class says what an error of a provider means for what the caller does next.
type Class uint8

const (
	Unknown      Class = iota // the outcome is not known: look (Get) before acting again
	Transient                 // certainly not done; trying again soon may help
	Throttled                 // certainly not done; asked too often
	NoCapacity                // certainly not done; the provider has no such machine now
	OverQuota                 // certainly not done; our own limit there is reached
	BadConfig                 // certainly not done; what was asked for can never work
	Unauthorized              // certainly not done; we may not
	NotFound                  // there is no such instance (that the provider can see now)
)

var classNames = [...]string{"unknown", "transient", "throttled", "no-capacity", "over-quota", "bad-config", "unauthorized", "not-found"}

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "unknown"
}

// Error is a classed error of a provider.
type Error struct {
	Class Class
	Op    string // "create", "destroy", "get", "list"
	Err   error  // never nil; its text holds no secret
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (%s)", e.Op, e.Err, e.Class) }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes a classed error.
func Errorf(class Class, op, format string, args ...any) error {
	return &Error{Class: class, Op: op, Err: fmt.Errorf(format, args...)}
}

// ClassOf returns an error's class. An error that has none, a deadline and a cancellation are Unknown: the call may have had its effect.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return e.Class
	}
	return Unknown
}
