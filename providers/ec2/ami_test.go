package ec2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// at makes available images ami-0, ami-1, … at these locations.
func at(locations ...string) []image {
	var out []image
	for i, l := range locations {
		out = append(out, image{ID: fmt.Sprintf("ami-%d", i), Location: l, State: "available"})
	}
	return out
}

func mustCompile(t interface{ Fatal(...any) }, expr string) *regexp.Regexp {
	if expr == "" {
		return nil
	}
	re, err := compileLocation(expr)
	if err != nil {
		t.Fatal(err)
	}
	return re
}

func TestTheLastImageInOrderIsTaken(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("9", 40)
	for _, tc := range []struct {
		name   string
		images []image
		expr   string
		newest bool
		order  string // of the IDs that are not refused; the last is taken
		why    string // of the one that is taken
	}{
		{"integers are compared as integers", at("w-9", "w-10", "w-8"), `w-(\d+)`, false, "2 0 1", "integer 10"},
		{"text is compared as text", at("w-b", "w-a", "w-c"), `w-(.*)`, false, "1 0 2", `text "c"`},
		{"one group that is no integer makes all of them text", at("w-9", "w-10", "w-8a"), `w-(.*)`, false, "1 2 0", `text "9"`},
		{"an image that does not match does not make the others text", at("w-9", "w-10", "x-a"), `w-(.*)`, false, "0 1", "integer 10"},
		{"without a group the location decides", at("w-9", "w-10"), `w-\d+`, false, "1 0", `location "w-9"`},
		{"brackets that capture nothing are no group", at("w-9", "w-10"), `w-(?:\d+)`, false, "1 0", `location "w-9"`},
		{"without an expression the location decides", at("b", "c", "a"), "", false, "2 0 1", `location "c"`},
		{"only the first group counts", at("w-1-9", "w-2-1"), `w-(\d)-(\d)`, false, "0 1", "integer 2"},
		{"a later group breaks no tie, the location does", at("w-1-9", "w-1-10"), `w-(\d)-(\d+)`, false, "1 0", "integer 1"},
		{"the first group is the one that opens first", at("w-1b", "w-2a"), `w-((\d)(\w))`, false, "0 1", `text "2a"`},
		{"a named group counts as any other", at("w-9", "w-10"), `w-(?P<n>\d+)`, false, "0 1", "integer 10"},
		{"an optional group that took no part is empty text", at("w-10", "w", "w-9"), `w(?:-(\d+))?`, false, "1 0 2", `text "9"`},
		{"no optional group took part", at("wb", "wa"), `w(?:-(\d+))?`, false, "1 0", `text ""`},
		{"an empty group is no integer", at("w-10", "w-", "w-9"), `w-(\d*)`, false, "1 0 2", `text "9"`},
		{"the expression is anchored at the start", at("x/w-1", "w-0"), `w-(\d)`, false, "1", "integer 0"},
		{"also its second alternative", at("xb", "a", "b"), `a|b`, false, "1 2", `location "b"`},
		{"the expression is not anchored at the end", at("w-1.manifest.xml"), `w-(\d)`, false, "0", "integer 1"},
		{"unless it says so", at("w-1.manifest.xml", "w-2"), `w-(\d)$`, false, "1", "integer 2"},
		{"equal integers: the text decides", at("w-7", "w-007", "w-07"), `w-(\d+)`, false, "1 2 0", "integer 7"},
		{"equal groups: the location decides", at("w-1/b", "w-1/c", "w-1/a"), `w-(\d)`, false, "2 0 1", "integer 1"},
		{"equal locations: the ID decides", at("w-1", "w-1"), `w-(\d)`, false, "0 1", "integer 1"},
		{"integers beyond 64 bits", at("w-"+huge+"1", "w-"+huge+"2", "w-3"), `w-(\d+)`, false, "2 0 1", "integer " + huge + "2"},
		{"negative integers", at("w-1", "w--2", "w--3"), `w-(.*)`, false, "2 1 0", "integer 1"},
		{"white space and a sign around an integer", at("w- +9 ", "w-10"), `w-(.*)`, false, "0 1", "integer 10"},
		{"an integer with underscores", at("w-1_0", "w-9"), `w-(.*)`, false, "1 0", "integer 10"},
		{"an underscore at the end is none", at("w-10_", "w-9"), `w-(.*)`, false, "0 1", `text "9"`},
		{"a fraction is no integer", at("w-9.5", "w-10"), `w-(.*)`, false, "1 0", `text "9.5"`},
		{"too many digits are no integer", at("w-"+strings.Repeat("1", 4301), "w-2"), `w-(\d+)`, false, "0 1", `text "2"`},
		{"capitals sort before small letters", at("w-b", "w-B"), `w-(.*)`, false, "1 0", `text "b"`},
		{"text beyond ASCII", at("w-é", "w-z"), `w-(.*)`, false, "1 0", `text "é"`},
		{"bytes that are no text", at("w-\xff", "w-z"), `w-(.*)`, false, "1 0", `text "\xff"`},
		{"an image without a location matches nothing", at("", "w-1"), `w-(\d)|()`, false, "1", "integer 1"},
		{"without an expression it comes first", at("a", "", "b"), "", false, "1 0 2", `location "b"`},
		{"an image that is not available is not taken", func() []image {
			l := at("w-1", "w-2", "w-3", "w-x")
			l[1].State, l[2].State, l[3].State = "pending", "", "failed"
			return l
		}(), `w-(.*)`, false, "0", "integer 1"},
		{"the newest date", []image{
			{ID: "0", State: "available", Created: "2026-01-02T00:00:00.000Z"}, {ID: "1", State: "available", Created: "2026-10-01T00:00:00.000Z"},
			{ID: "2", State: "available", Created: "2026-02-01T00:00:00.000Z"},
		}, "", true, "0 2 1", "date 2026-10-01T00:00:00Z"},
		{"dates with zones are times", []image{
			{ID: "0", State: "available", Created: "2026-01-02T00:30:00+02:00"}, {ID: "1", State: "available", Created: "2026-01-01T23:00:00Z"},
		}, "", true, "0 1", "date 2026-01-01T23:00:00Z"},
		{"equal dates: the ID decides", []image{
			{ID: "b", State: "available", Created: "2026-01-01T00:00:00Z"}, {ID: "a", State: "available", Created: "2026-01-01T00:00:00Z"},
		}, "", true, "a b", "date"},
		{"an image without a date, or with none that can be read, is the oldest", []image{
			{ID: "b", State: "available", Created: "yesterday"}, {ID: "c", State: "available", Created: "1980-01-01T00:00:00Z"}, {ID: "a", State: "available"},
		}, "", true, "a b c", "date 1980"},
		{"only dates that cannot be read", []image{{ID: "b", State: "available"}, {ID: "a", State: "available"}}, "", true, "a b", "no date"},
		{"newest_by replaces the order of the expression, which still refuses", []image{
			{ID: "0", State: "available", Location: "w-9", Created: "2026-01-01T00:00:00Z"}, {ID: "1", State: "available", Location: "w-1", Created: "2026-02-01T00:00:00Z"},
			{ID: "2", State: "available", Location: "x-1", Created: "2026-03-01T00:00:00Z"},
		}, `w-(\d)`, true, "0 1", "date 2026-02"},
		{"nothing matches", at("x", "y"), `w-(\d)`, false, "", ""},
		{"there is nothing", nil, `w-(\d)`, false, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			list, ok := choose(tc.images, mustCompile(t, tc.expr), tc.newest)
			var ids []string
			why := ""
			for i, c := range list {
				if c.Refused && len(ids) > 0 {
					t.Errorf("%s is refused, but comes after one that is not", c.ID)
				}
				if !c.Refused {
					ids = append(ids, strings.TrimPrefix(c.ID, "ami-"))
				}
				if c.Taken != (!c.Refused && i == len(list)-1) {
					t.Errorf("%s: taken is %t", c.ID, c.Taken)
				}
				if c.Taken {
					why = c.Why
				}
				if c.Why == "" {
					t.Errorf("nothing is said of %s", c.ID)
				}
			}
			if got := strings.Join(ids, " "); got != tc.order {
				t.Errorf("the order is %s, not %s", got, tc.order)
			}
			if !strings.Contains(why, tc.why) {
				t.Errorf("it was taken because %q, which does not mention %q", why, tc.why)
			}
			if len(list) != len(tc.images) || ok != (tc.order != "") {
				t.Errorf("%d of %d images, ok = %t", len(list), len(tc.images), ok)
			}
		})
	}
}

func TestARefusedImageSaysWhy(t *testing.T) {
	t.Parallel()
	images := at("w-1", "x-1", "", "w-2")
	images[3].State = "pending"
	list, ok := choose(images, mustCompile(t, `w-(\d)`), false)
	want := map[string]string{"ami-0": "taken", "ami-1": "does not match at the start", "ami-2": "no location", "ami-3": `"pending"`}
	for _, c := range list {
		if !strings.Contains(c.Why, want[c.ID]) {
			t.Errorf("%s: %s", c.ID, c.Why)
		}
	}
	if !ok || len(list) != 4 {
		t.Errorf("ok = %t, %d images", ok, len(list))
	}
}

func TestAnExpressionThatPythonKnowsAndGoDoesNotIsExplained(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		`w-(?=x)`:                "Look-ahead",
		`(?<!a)b`:                "RE2",
		`(a)\1`:                  "Back-references",
		`a++`:                    "Possessive",
		`a\Z`:                    `\z`,
		`w-(`:                    "missing closing )",
		`a)|(b`:                  "unexpected )",
		`a{2000}`:                "1000",
		`[z-a]`:                  "range",
		`a{,3}`:                  "{0,3}",
		`(?(1)a|b)`:              "Look-ahead",
		`*`:                      "missing argument",
		"a\xff":                  "UTF-8",
		`(((a{100}){100}){100})`: "1000",
	} {
		if _, err := compileLocation(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want it to say %q", expr, err, want)
		}
	}
	if _, err := compileLocation(strings.Repeat("a", 2001)); err == nil {
		t.Error("an expression of any length is accepted")
	}
	for _, expr := range []string{`[{,3}]`, `\{,3}`, `[]{,3}]`, `[^]{,3}]`, `a{0,3}`, `a{3,}`, `(?i)w-(\d+)`} {
		if _, err := compileLocation(expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

// drawImages draws images that are alike, so that ties and mixed sets are common.
func drawImages(t *rapid.T) []image {
	group := rapid.SampledFrom([]string{"", "1", "2", "01", "10", "-1", "a", "A", " 2", "1_0", "_1", "99999999999999999999", "é"})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) image {
		return image{
			ID:       rapid.SampledFrom([]string{"ami-a", "ami-b", "ami-c"}).Draw(t, "id"),
			Location: rapid.SampledFrom([]string{"", "w", "w-", "w-", "w-", "x-"}).Draw(t, "prefix") + group.Draw(t, "group") + rapid.SampledFrom([]string{"", "/z"}).Draw(t, "rest"),
			State:    rapid.SampledFrom([]string{"available", "available", "available", "pending"}).Draw(t, "state"),
			Created:  rapid.SampledFrom([]string{"", "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z", "x"}).Draw(t, "created"),
		}
	}), 0, 8).Draw(t, "images")
}

var someExpressions = []string{"", `w-([^/]*)`, `w-(\d*)`, `w(?:-(\d+))?`, `w-`, `(w)`, `()`, `w-(?:(a)|(\d))`}

func TestTheChoiceDoesNotDependOnTheOrderOfTheAnswer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		images := drawImages(t)
		re := mustCompile(t, rapid.SampledFrom(someExpressions).Draw(t, "expr"))
		newest := rapid.Bool().Draw(t, "newest")
		want, ok := choose(images, re, newest)
		shuffled := slices.Clone(images)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got, ok2 := choose(shuffled, re, newest)
		if ok != ok2 || !slices.Equal(got, want) {
			t.Fatalf("shuffled:\n%+v\nfirst:\n%+v", got, want)
		}
		taken := 0
		for _, c := range got {
			if c.Taken {
				taken++
			}
		}
		if len(got) != len(images) || (taken == 1) != ok || taken > 1 {
			t.Fatalf("%d images make %d candidates, %d taken, ok = %t", len(images), len(got), taken, ok)
		}
	})
}

// The order must be total: without contradiction, and a tie only for images that are the same.
func TestTheOrderOfImagesIsTotal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := order(rapid.IntRange(0, int(byDate)).Draw(t, "order"))
		var rs []*ranked
		for _, im := range drawImages(t) {
			r := &ranked{candidate: candidate{image: im}, created: im.createdAt(), group: strings.TrimPrefix(im.Location, "w-")}
			if r.integer = castInt(r.group); o == byInteger && r.integer == nil {
				continue
			}
			rs = append(rs, r)
		}
		for _, a := range rs {
			for _, b := range rs {
				ab := o.compare(a, b)
				if ab != -o.compare(b, a) || (ab == 0) != (a.image == b.image) {
					t.Fatalf("%+v and %+v: %d", a, b, ab)
				}
				for _, c := range rs {
					if ab < 0 && o.compare(b, c) < 0 && o.compare(a, c) >= 0 {
						t.Fatalf("%+v < %+v < %+v, but not the first before the last", a, b, c)
					}
				}
			}
		}
	})
}

func FuzzChoose(f *testing.F) {
	f.Add("w-(.*)", "w-1\nw-2\n", false)
	f.Add("", "\n\n", true)
	f.Add(`w(?:-(\d+))?`, "w\nw-1_\nw-\xff", false)
	f.Fuzz(func(t *testing.T, expr, locations string, newest bool) {
		re, err := compileLocation(expr)
		if err != nil {
			return
		}
		images := at(strings.Split(locations, "\n")...)
		list, ok := choose(images, re, newest)
		if len(list) != len(images) || ok != list[len(list)-1].Taken {
			t.Fatalf("%d candidates of %d, ok = %t", len(list), len(images), ok)
		}
		slices.Reverse(images)
		again, _ := choose(images, re, newest)
		if !slices.Equal(list, again) {
			t.Fatal("another order of images, another choice")
		}
	})
}

// pythonRule is the rule of the documents once more, by other means: Python's own int, re and sort. For each case of standard input it says which
// image is the last.
const pythonRule = `
import json, re, sys

def last(expr, images):
    matcher = re.compile(expr)
    found = []
    for ident, where in images:
        m = matcher.match(where) if where else None
        if m:
            found.append((m, where, ident))
    if not found:
        return None
    if matcher.groups == 0:
        return max((where, ident) for m, where, ident in found)[-1]
    text = lambda m: m.group(1) or ""
    try:
        return max((int(text(m)), text(m), where, ident) for m, where, ident in found)[-1]
    except ValueError:
        return max((text(m), where, ident) for m, where, ident in found)[-1]

for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps(last(case["expr"], case["images"])))
`

func TestTheChoiceIsTheDocumentsRule(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to ask")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	expressions := []string{`w-(.*)`, `w-([^/]*)`, `w-([ \t]*[+-]?[0-9_]*)`, `w(?:-(\d+))?`, `w-`, `(w)-(\d)`, `w-(\d+)$`, `.*?(\d+)`, `(?:x|w-(a)|w-(\d))`, `w-((\d)|(a))`}
	var in bytes.Buffer
	var want []string
	for range 4000 {
		expr := pick(expressions...)
		var images []image
		var pairs [][2]string
		for i := range rnd.IntN(7) {
			group := ""
			for range rnd.IntN(4) {
				group += pick("0", "1", "2", "9", "9", "_", "-", "+", " ", "a", "B", "\t", "\x1f", "12345678901234567890")
			}
			im := image{ID: fmt.Sprintf("ami-%d", i), Location: pick("w-", "w-", "w-", "w", "x/w-", "") + group + pick("", "", "/m"), State: "available"}
			images = append(images, im)
			pairs = append(pairs, [2]string{im.ID, im.Location})
		}
		line, err := json.Marshal(map[string]any{"expr": expr, "images": append([][2]string{}, pairs...)})
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
		answer := "null"
		if list, ok := choose(images, mustCompile(t, expr), false); ok {
			answer = fmt.Sprintf("%q", list[len(list)-1].ID)
		}
		want = append(want, answer+" for "+string(line))
	}
	cmd := exec.Command(python, "-c", pythonRule)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d answers to %d questions", len(got), len(want))
	}
	for i := range got {
		if !strings.HasPrefix(want[i], got[i]+" for ") {
			t.Errorf("Python says %s, we say %s", got[i], want[i])
		}
	}
}
