package ec2test

import (
	"net/url"
	"strconv"
	"strings"
	"time"
)

// rate is a token bucket's size and its refill in a second.
type rate struct{ size, refill float64 }

// The limits that EC2 documents ("Request throttling for the Amazon EC2 API"), for one account in one region.
var (
	filtered   = rate{100, 20} // Describe actions with a filter, identifiers or pages
	unfiltered = rate{50, 10}
	mutating   = rate{50, 5}

	requestRates  = map[string]rate{"RunInstances": {5, 2}, "StartInstances": {5, 2}, "TerminateInstances": {100, 5}}
	resourceRates = map[string]rate{"RunInstances": {1000, 2}, "StartInstances": {1000, 2}, "StopInstances": {1000, 20}, "TerminateInstances": {1000, 20}}
)

// buckets are those of one account. Each action has its own.
type buckets struct {
	factor float64
	level  map[string]*bucket
}

type bucket struct {
	rate
	tokens float64
	at     time.Time
}

func newBuckets(factor float64) *buckets {
	return &buckets{factor: factor, level: map[string]*bucket{}}
}

// take says whether a call is within the limits, and if so, counts it.
func (b *buckets) take(form url.Values, now time.Time) bool {
	action := form.Get("Action")
	request := b.bucket("request "+class(form), requestRate(form), now)
	if request.tokens < 1 {
		return false
	}
	if r, ok := resourceRates[action]; ok {
		n := float64(max(1, len(list(form, "InstanceId"))))
		if c, err := strconv.Atoi(form.Get("MaxCount")); err == nil {
			n = float64(c)
		}
		resource := b.bucket("resource "+action, r, now)
		if resource.tokens < n {
			return false
		}
		resource.tokens -= n
	}
	request.tokens--
	return true
}

func (b *buckets) bucket(name string, r rate, now time.Time) *bucket {
	k := b.level[name]
	if k == nil {
		k = &bucket{rate: rate{r.size * b.factor, r.refill * b.factor}, at: now}
		k.tokens = k.size
		b.level[name] = k
	}
	k.tokens = min(k.size, k.tokens+now.Sub(k.at).Seconds()*k.refill)
	k.at = now
	return k
}

// class names the bucket of a call: the unfiltered calls of an action have one of their own.
func class(form url.Values) string {
	if reads(form.Get("Action")) && !narrow(form) {
		return form.Get("Action") + " unfiltered"
	}
	return form.Get("Action")
}

func requestRate(form url.Values) rate {
	action := form.Get("Action")
	if r, ok := requestRates[action]; ok {
		return r
	}
	switch {
	case !reads(action):
		return mutating
	case narrow(form):
		return filtered
	}
	return unfiltered
}

func reads(action string) bool {
	return strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get")
}

// narrow is true for a call with pages, filters or identifiers.
func narrow(form url.Values) bool {
	for k := range form {
		if k == "MaxResults" || strings.HasPrefix(k, "Filter.") || strings.HasSuffix(k, ".1") || strings.HasSuffix(k, "Id") {
			return true
		}
	}
	return false
}
