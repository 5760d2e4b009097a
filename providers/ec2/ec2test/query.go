package ec2test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	version  = "2016-11-15"
	maxBody  = 1 << 20  // of a request
	maxReply = 64 << 20 // of an answer: EC2 lists a thousand instances in some megabytes
)

// Client speaks EC2's query protocol.
type Client struct {
	URL     string
	Account string
	Service string // of another service with the same protocol, such as "iam"; default "ec2"
	Version string // of its API
}

// APIError is an error that the service has answered.
type APIError struct {
	Status        int
	Code, Message string
}

func (e *APIError) Error() string {
	return fmt.Sprintf("%s: %s (HTTP %d)", e.Code, e.Message, e.Status)
}

// Code is the code of an APIError, or "".
func Code(err error) string {
	var e *APIError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Call calls an action. params are pairs of name and value.
func (c *Client) Call(ctx context.Context, action string, params ...string) (*Node, error) {
	form := url.Values{"Action": {action}, "Version": {cmp.Or(c.Version, version)}}
	for i := 0; i+1 < len(params); i += 2 {
		form.Add(params[i], params[i+1])
	}
	status, body, err := c.post(ctx, form)
	if err != nil {
		return nil, err
	}
	n, err := parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: HTTP %d: %w", action, status, err)
	}
	if status != http.StatusOK {
		return nil, &APIError{Status: status, Code: n.Find("Code").Text, Message: n.Find("Message").Text}
	}
	return n, nil
}

// post sends a form and returns the answer as it is.
func (c *Client) post(ctx context.Context, form url.Values) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAEC2TESTEC2TEST00/20260101/"+Region+
		"/"+cmp.Or(c.Service, "ec2")+"/aws4_request, SignedHeaders=host, Signature=00")
	req.Header.Set(accountHeader, c.Account)
	resp, err := upstream.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	return resp.StatusCode, body, err
}

// accountHeader chooses the account in moto.
const accountHeader = "X-Moto-Account-Id"

// upstream has no connection that outlives a call: moto closes each.
var upstream = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Node is one element of an answer. A nil Node has no text and no children, so that a path through what is not there ends in "".
type Node struct {
	Name string
	Text string
	Kids []*Node
}

func parse(b []byte) (*Node, error) {
	dec := xml.NewDecoder(bytes.NewReader(b))
	root := &Node{}
	stack := []*Node{root}
	for {
		tok, err := dec.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("no XML: %w: %.200q", err, b)
		}
		top := stack[len(stack)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			n := &Node{Name: t.Name.Local}
			top.Kids = append(top.Kids, n)
			stack = append(stack, n)
		case xml.EndElement:
			if len(stack) == 1 {
				return nil, errors.New("no XML: an end without a beginning")
			}
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 1 {
				top.Text += string(t)
			}
		}
	}
	if len(root.Kids) != 1 || len(stack) != 1 {
		return nil, fmt.Errorf("no XML: %.200q", b)
	}
	return root.Kids[0], nil
}

// render is the answer as EC2 sends it.
func (n *Node) render() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n")
	n.write(&b, ` xmlns="http://ec2.amazonaws.com/doc/`+version+`/"`)
	return b.String()
}

func (n *Node) write(b *strings.Builder, attr string) {
	b.WriteString("<" + n.Name + attr + ">")
	if len(n.Kids) == 0 {
		_ = xml.EscapeText(b, []byte(n.Text))
	}
	for _, k := range n.Kids {
		k.write(b, "")
	}
	b.WriteString("</" + n.Name + ">")
}

// Get follows a path of names, the first of each.
func (n *Node) Get(path ...string) *Node {
	for _, name := range path {
		n = n.child(name)
	}
	return n
}

func (n *Node) child(name string) *Node {
	if n == nil {
		return nil
	}
	for _, k := range n.Kids {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// S is the text of a path, or "".
func (n *Node) S(path ...string) string {
	if n = n.Get(path...); n == nil {
		return ""
	}
	return n.Text
}

// Find is the first element with a name at any depth. It is never nil.
func (n *Node) Find(name string) *Node {
	if all := n.All(name); len(all) > 0 {
		return all[0]
	}
	return &Node{}
}

// All are the elements with a name at any depth that are not below one of the same name.
func (n *Node) All(name string) (found []*Node) {
	if n == nil {
		return nil
	}
	for _, k := range n.Kids {
		if k.Name == name {
			found = append(found, k)
		} else {
			found = append(found, k.All(name)...)
		}
	}
	return found
}

// set gives a child a text, and makes it if it is not there.
func (n *Node) set(name, text string) *Node {
	k := n.child(name)
	if k == nil {
		k = &Node{Name: name}
		n.Kids = append(n.Kids, k)
	}
	k.Text = text
	return k
}

// instances are the instance elements of an answer of any action that has some.
func (n *Node) instances() (found []*Node) {
	for _, set := range n.All("instancesSet") {
		for _, item := range set.Kids {
			if item.Name == "item" {
				found = append(found, item)
			}
		}
	}
	return found
}

// failure is an error as EC2 sends it.
func failure(e *APIError) string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<Response><Errors><Error><Code>")
	_ = xml.EscapeText(&b, []byte(e.Code))
	b.WriteString("</Code><Message>")
	_ = xml.EscapeText(&b, []byte(e.Message))
	b.WriteString("</Message></Error></Errors><RequestID>ec2test</RequestID></Response>")
	return b.String()
}

// list are the values of a list parameter, such as InstanceId.1, InstanceId.2, in their order.
func list(form url.Values, prefix string) (values []string) {
	for i := 1; ; i++ {
		v, ok := form[fmt.Sprintf("%s.%d", prefix, i)]
		if !ok {
			return values
		}
		values = append(values, v...)
	}
}

// tagsOf are the tags that a launch gives its instances.
func tagsOf(form url.Values) map[string]string {
	tags := map[string]string{}
	for i := 1; form.Has(fmt.Sprintf("TagSpecification.%d.ResourceType", i)); i++ {
		p := fmt.Sprintf("TagSpecification.%d.", i)
		if form.Get(p+"ResourceType") != "instance" {
			continue
		}
		for j := 1; form.Has(fmt.Sprintf("%sTag.%d.Key", p, j)); j++ {
			tags[form.Get(fmt.Sprintf("%sTag.%d.Key", p, j))] = form.Get(fmt.Sprintf("%sTag.%d.Value", p, j))
		}
	}
	return tags
}

// canonical is what two calls must agree in to be the same call.
func canonical(form url.Values) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(form)) {
		if k != "ClientToken" && k != "Version" {
			fmt.Fprintf(&b, "%q=%q\n", k, form[k])
		}
	}
	return b.String()
}
