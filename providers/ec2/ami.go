package ec2

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"github.com/rouse-ci/rouse/providers"
)

// This file is the choice of an image out of those that EC2 names. It is pure: the same images in any order give the same choice.
//
// The rule is Buildbot's, of its EC2 worker's valid_ami_location_regex: the expression must match at the start of the image's location, not
// up to its end; the matching images are sorted, and the last one is taken. They are sorted by the expression's first group as an integer, then by
// that group as text, then by location, then by ID. If the group of any matching image is no integer, the group is compared as text for all; if the
// expression has no group, the location decides. Only images that are available count.
//
// Where that rule does not say what happens, this does:
//   - A first group that took no part in the match is empty text, so it is no integer.
//   - An image without a location matches no expression. Without an expression, it is the first in order.
//   - "An integer" is what Python's int() takes of ASCII text: of any size, with white space around it, a sign, leading zeros, and single "_" between digits.
//   - The expression is RE2: \s, \d and \w are ASCII, and $ is the very end.
//   - newest_by = "creation_date" replaces the order: by date of creation, then by ID. An image with no date, or one that cannot be read, is older than all.

// image is what the choice needs to know of one image.
type image struct {
	ID, Name, Location string
	State              string // EC2's: "available", "pending", …
	Created            string // as EC2 gives it: RFC 3339
	Owner              string // account number
	Architecture       string
	RootDevice         string // device name of its root volume
	RootGiB            int64  // size of that volume; 0 if not known
	RootEncrypted      bool
	DiskGiB            int64 // size of all volumes that it makes
}

// createdAt is the zero time if the date is missing or malformed.
func (i *image) createdAt() time.Time {
	t, err := time.Parse(time.RFC3339, i.Created)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// candidate is one image and what became of it.
type candidate struct {
	image
	Taken   bool
	Refused bool
	Why     string
}

// order says by what the candidates were compared first.
type order uint8

const (
	byInteger order = iota
	byText
	byLocation
	byDate
)

// compileLocation compiles a location_regex so that it matches at the start only. Its errors tell an author what to write instead.
func compileLocation(expr string) (*regexp.Regexp, error) {
	if len(expr) > 2000 {
		return nil, fmt.Errorf("it has %d characters; 2000 are enough", len(expr))
	}
	if m := pythonRepeat(expr); m != "" {
		return nil, fmt.Errorf("%s would be taken literally; write {0%s instead", m, m[1:])
	}
	if _, err := regexp.Compile(expr); err != nil { // alone first: in the brackets below, "a)|(b" would be correct
		return nil, explainSyntax(err)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)`)
	if err != nil {
		return nil, explainSyntax(err)
	}
	return re, nil
}

// location compiles the expression of a filter; nil if it has none.
func location(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, nil
	}
	re, err := compileLocation(expr)
	if err != nil {
		return nil, providers.Errorf(providers.BadConfig, "images", "location_regex: %w", err)
	}
	return re, nil
}

// pythonRepeat finds a repetition such as {,3}, which means {0,3} in Python and is plain text in Go.
func pythonRepeat(expr string) string {
	class := false
	for i := 0; i < len(expr); i++ {
		switch c := expr[i]; {
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
			if i+1 < len(expr) && expr[i+1] == '^' {
				i++
			}
			if i+1 < len(expr) && expr[i+1] == ']' { // the first bracket in a class stands for itself
				i++
			}
		case c == '{':
			if m := repeatUpTo.FindString(expr[i:]); m != "" {
				return m
			}
		}
	}
	return ""
}

var repeatUpTo = regexp.MustCompile(`^\{,[0-9]+\}`)

// explainSyntax says what of Python's expressions RE2 lacks, if it is that.
func explainSyntax(err error) error {
	e, ok := errors.AsType[*syntax.Error](err)
	if !ok {
		return err
	}
	hint := ""
	switch {
	case e.Code == syntax.ErrInvalidPerlOp, strings.HasPrefix(e.Expr, "(?"):
		hint = ". Look-ahead, look-behind, conditions and comments are not supported: the syntax is RE2's (https://golang.org/s/re2syntax)"
	case e.Code == syntax.ErrInvalidEscape && e.Expr == `\Z`:
		hint = `. The end of the text is \z`
	case e.Code == syntax.ErrInvalidEscape:
		hint = ". Back-references are not supported: the syntax is RE2's (https://golang.org/s/re2syntax)"
	case e.Code == syntax.ErrInvalidRepeatOp:
		hint = ". Possessive repetitions are not supported: the syntax is RE2's (https://golang.org/s/re2syntax)"
	case e.Code == syntax.ErrInvalidRepeatSize:
		hint = ". A repetition counts up to 1000"
	}
	return fmt.Errorf("%s: %q%s", e.Code, e.Expr, hint)
}

// ranked is a candidate with its keys.
type ranked struct {
	candidate
	group   string
	integer *big.Int
	created time.Time
}

// choose orders the images: first those that are refused, then the others so that the last one is taken. re is from compileLocation, or nil. ok is
// false if all are refused.
func choose(images []image, re *regexp.Regexp, newest bool) (list []candidate, ok bool) {
	var refused []candidate
	var rest []ranked
	by := byLocation
	if re != nil && re.NumSubexp() > 0 {
		by = byInteger
	}
	if newest {
		by = byDate
	}
	for _, im := range images {
		r := ranked{candidate: candidate{image: im}, created: im.createdAt()}
		if r.Why = refuse(&im, re); r.Why != "" {
			r.Refused = true
			refused = append(refused, r.candidate)
			continue
		}
		if by == byInteger || by == byText {
			m := re.FindStringSubmatch(im.Location)
			r.group, r.integer = m[1], castInt(m[1])
			if r.integer == nil {
				by = byText
			}
		}
		rest = append(rest, r)
	}
	slices.SortFunc(refused, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.Location, b.Location), compareRest(&a.image, &b.image))
	})
	slices.SortFunc(rest, func(a, b ranked) int { return by.compare(&a, &b) })
	list = refused
	for i := range rest {
		r := &rest[i]
		r.Taken = i == len(rest)-1
		r.Why = by.why(r)
		list = append(list, r.candidate)
	}
	return list, len(rest) > 0
}

// refuse says why an image cannot be taken, "" if it can.
func refuse(im *image, re *regexp.Regexp) string {
	switch {
	case im.State != "available":
		return fmt.Sprintf("its state is %q, not \"available\"", im.State)
	case re != nil && im.Location == "":
		return "it has no location that location_regex could match"
	case re != nil && !re.MatchString(im.Location):
		return "location_regex does not match at the start of its location"
	}
	return ""
}

// compare is a total order of images that differ in any field: the choice does not depend on the order in which EC2 names them.
func (o order) compare(a, b *ranked) int {
	c := 0
	switch o {
	case byInteger:
		c = cmp.Or(a.integer.Cmp(b.integer), cmp.Compare(a.group, b.group), cmp.Compare(a.Location, b.Location))
	case byText:
		c = cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.Location, b.Location))
	case byLocation:
		c = cmp.Compare(a.Location, b.Location)
	case byDate:
		c = a.created.Compare(b.created)
	}
	return cmp.Or(c, compareRest(&a.image, &b.image))
}

func compareRest(a, b *image) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Location, b.Location), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Created, b.Created),
		cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.State, b.State), cmp.Compare(a.Architecture, b.Architecture),
		cmp.Compare(a.RootDevice, b.RootDevice), cmp.Compare(a.RootGiB, b.RootGiB), cmp.Compare(a.DiskGiB, b.DiskGiB))
}

// why says by what a candidate has its place.
func (o order) why(r *ranked) string {
	var key string
	switch o {
	case byInteger:
		key = "integer " + r.integer.String()
	case byText:
		key = fmt.Sprintf("text %q", r.group)
	case byLocation:
		key = fmt.Sprintf("location %q", r.Location)
	case byDate:
		key = "date " + r.created.Format(time.RFC3339)
		if r.created.IsZero() {
			key = "no date"
		}
	}
	if r.Taken {
		return "taken: last in order, by " + key
	}
	return "earlier in order, by " + key
}

// castInt reads s as Python's int() reads ASCII text; nil means that it is no integer. As there, 4300 digits are the limit.
func castInt(s string) *big.Int {
	s = strings.Trim(s, " \t\n\v\f\r\x1c\x1d\x1e\x1f")
	sign, digits := "", s
	if s != "" && (s[0] == '+' || s[0] == '-') {
		sign, digits = s[:1], s[1:]
	}
	under := true // a "_" may stand between two digits only
	for i := range len(digits) {
		switch c := digits[i]; {
		case '0' <= c && c <= '9':
			under = false
		case c == '_' && !under:
			under = true
		default:
			return nil
		}
	}
	digits = strings.ReplaceAll(digits, "_", "")
	if under || len(digits) > 4300 {
		return nil
	}
	n, _ := new(big.Int).SetString(sign+digits, 10)
	return n
}
