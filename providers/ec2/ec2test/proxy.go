package ec2test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// answer is what a call gets: a reply, or a connection that breaks.
type answer struct {
	status int
	body   string
	drop   bool
}

func fail(status int, code, format string, args ...any) answer {
	return answer{status: status, body: failure(&APIError{Code: code, Message: fmt.Sprintf(format, args...)})}
}

// ServeHTTP is the proxy.
func (w *World) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	if target := r.Header.Get("X-Amz-Target"); strings.HasPrefix(target, "AWSPriceListService.") {
		w.servePrices(rw, strings.TrimPrefix(target, "AWSPriceListService."), body)
		return
	}
	if target := r.Header.Get("X-Amz-Target"); strings.HasPrefix(target, "ServiceQuotasV20190624.") {
		w.serveQuotas(rw, strings.TrimPrefix(target, "ServiceQuotasV20190624."), body)
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || !strings.Contains(r.Header.Get("Authorization"), "/ec2/aws4_request") {
		w.pass(rw, r, body)
		return
	}
	a := w.serve(r.Context(), form)
	if a.drop {
		drop(rw)
		return
	}
	w.note(form.Get("Action"), a)
	rw.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	rw.WriteHeader(a.status)
	_, _ = io.WriteString(rw, a.body)
}

// note counts the errors that are answered.
func (w *World) note(action string, a answer) {
	if a.status == http.StatusOK {
		return
	}
	code := ""
	if n, err := parse([]byte(a.body)); err == nil {
		code = n.Find("Code").Text
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors[action+" "+code]++
}

// pass hands a call of another service (STS, IAM) to moto.
func (w *World) pass(rw http.ResponseWriter, r *http.Request, body []byte) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, w.direct.URL+r.URL.RequestURI(), strings.NewReader(string(body)))
	if err != nil {
		drop(rw)
		return
	}
	req.Header = r.Header.Clone()
	req.Header.Set(accountHeader, w.Account)
	resp, err := upstream.Do(req)
	if err != nil {
		drop(rw)
		return
	}
	defer resp.Body.Close()
	rw.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	rw.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(rw, io.LimitReader(resp.Body, maxReply))
}

// drop breaks a connection as a lost machine on the way does: without a word, and with a reset.
func drop(rw http.ResponseWriter) {
	c, _, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// serve answers one call of EC2, or breaks it as the plan says.
func (w *World) serve(ctx context.Context, form url.Values) answer {
	action := form.Get("Action")
	now := time.Now()
	w.mu.Lock()
	w.calls[action]++
	n := w.calls[action]
	denied := w.denied[action]
	limited := w.buckets != nil && !w.buckets.take(form, now)
	var f Fault
	if !limited && !denied {
		f = w.plan.draw(action, n, w.faulted)
	}
	w.mu.Unlock()
	switch {
	case denied:
		return fail(http.StatusForbidden, "UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:iam::%s:user/test is not "+
			"authorized to perform: ec2:%s because no identity-based policy allows the ec2:%s action", w.Account, action, action)
	case limited:
		return throttled()
	}
	return w.breakage(ctx, f, form)
}

func throttled() answer {
	return fail(http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded.")
}

// breakage answers a call with a fault.
func (w *World) breakage(ctx context.Context, f Fault, form url.Values) answer {
	happened := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.faulted[f.Kind]++
	}
	switch f.Kind {
	case None:
		return w.act(ctx, form, f)
	case ListLate, Stale: // counted where something is hidden
		return w.act(ctx, form, f)
	case Refuse:
		happened()
		return answer{drop: true}
	case Throttle:
		happened()
		return throttled()
	case NoCapacity:
		happened()
		return short(form.Get("InstanceType"), "the requested zone")
	case Fail500:
		happened()
		return fail(http.StatusInternalServerError, "InternalError", "An internal error has occurred")
	case Fail503:
		happened()
		return fail(http.StatusServiceUnavailable, "Unavailable", "The server is overloaded and can't handle the request.")
	case Forget:
		happened()
		return w.forget(ctx, form)
	case Delay:
		happened()
		if !w.pause(ctx, f.For) {
			return answer{drop: true}
		}
		return w.act(ctx, form, f)
	case Hang:
		happened()
		w.pause(ctx, f.For)
		return answer{drop: true}
	case HangAfter:
		w.act(ctx, form, f)
		happened()
		w.pause(ctx, f.For)
		return answer{drop: true}
	case LoseReply:
		w.act(ctx, form, f)
		happened()
		return answer{drop: true}
	case Late500:
		a := w.act(ctx, form, f)
		if a.status != http.StatusOK {
			return a
		}
		happened()
		return fail(http.StatusInternalServerError, "InternalError", "An internal error has occurred")
	case Duplicate:
		happened()
		var both sync.WaitGroup
		both.Go(func() { w.act(context.WithoutCancel(ctx), form, Fault{}) })
		a := w.act(ctx, form, f)
		both.Wait()
		return a
	}
	return fail(http.StatusInternalServerError, "InternalError", "no such fault")
}

// pause waits, and says whether the caller is still there. No time at all is for ever.
func (w *World) pause(ctx context.Context, d time.Duration) bool {
	var after <-chan time.Time
	if d > 0 {
		after = time.After(d)
	}
	select {
	case <-after:
		return true
	case <-ctx.Done():
	case <-w.hung:
	}
	return false
}

// act does what the call says. Once it is begun it is done, whether the caller waits for it or not, as in EC2.
func (w *World) act(ctx context.Context, form url.Values, f Fault) answer {
	ctx = context.WithoutCancel(ctx)
	action := form.Get("Action")
	w.mu.Lock()
	h := w.handlers[action]
	w.mu.Unlock()
	if h != nil {
		if status, body, ok := h(form); ok {
			return answer{status: status, body: body}
		}
	}
	if a, ok := w.unseen(form); ok {
		return a
	}
	switch action {
	case "RunInstances":
		return w.run(ctx, form, f)
	case "TerminateInstances", "StopInstances", "StartInstances":
		return w.change(ctx, form, f)
	case "GetConsoleOutput":
		if a, ok := w.console(form.Get("InstanceId")); ok {
			return a
		}
	}
	return w.ask(ctx, form)
}

// ask lets moto answer, and shows its instances as this world has them.
func (w *World) ask(ctx context.Context, form url.Values) answer {
	status, body, err := w.direct.post(ctx, form)
	if err != nil {
		return answer{drop: true}
	}
	if status == http.StatusOK {
		switch form.Get("Action") {
		case "DescribeInstances":
			body, err = w.show(body)
		case "DescribeImages":
			body, err = date(body)
		}
		if err != nil {
			return fail(http.StatusInternalServerError, "InternalError", "%v", err)
		}
	}
	return answer{status: status, body: string(body)}
}

func (w *World) console(id string) (answer, bool) {
	w.mu.Lock()
	read, ok := w.consoles[id]
	w.mu.Unlock()
	if !ok {
		return answer{}, false
	}
	text := read()
	n := &Node{Name: "GetConsoleOutputResponse"}
	n.set("requestId", "ec2test")
	n.set("instanceId", id)
	n.set("timestamp", time.Now().UTC().Format(time.RFC3339))
	n.set("output", base64.StdEncoding.EncodeToString(text[max(0, len(text)-64<<10):]))
	return answer{status: http.StatusOK, body: n.render()}, true
}
