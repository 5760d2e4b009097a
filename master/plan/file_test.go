package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func saved(t testing.TB) (*File, []byte) {
	t.Helper()
	new := load(t, edit(t, base, "count    = 3", "count    = 4"))
	f := &File{Plan: Compute(input(t, load(t, base), new, "linux-1", "big*4")), Files: new.Files, Variables: map[string]string{"branch": `"main"`}, Sensitive: []string{"token"}, Dir: "/etc/rouse"}
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	return f, b.Bytes()
}

func TestAPlanFileIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	f, data := saved(t)
	got, err := Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(asText(t, f.Plan), asText(t, got.Plan)); diff != "" {
		t.Error(diff)
	}
}

func TestAPlanFileThatIsNotAsItWasWrittenIsRefused(t *testing.T) {
	t.Parallel()
	_, data := saved(t)
	header, body, _ := strings.Cut(string(data), "\n")
	for _, tc := range []struct {
		name string
		data string
		want error
	}{
		{"empty", "", ErrTruncated},
		{"half the magic word", "rouse p", ErrTruncated},
		{"half the first line", header[:40], ErrTruncated},
		{"only the first line", header + "\n", ErrTruncated},
		{"the last byte is missing", string(data[:len(data)-1]), ErrTruncated},
		{"a byte more", string(data) + "\n", ErrEdited},
		{"an edited action", strings.Replace(string(data), `"action":"create"`, `"action":"remove"`, 1), ErrEdited},
		{"an edited checksum", strings.Replace(string(data), "sha256:", "sha256:0", 1), ErrEdited},
		{"an edited length", strings.Replace(string(data), fmt.Sprint(len(body)), "x", 1), ErrEdited},
		{"words that are missing", magic + "1\n" + body, ErrEdited},
		{"another version", strings.Replace(string(data), magic+"1", magic+"2", 1), ErrVersion},
		{"no version", magic + "\n" + body, ErrNoPlan},
		{"a version that is no number", magic + "x y z\n", ErrNoPlan},
		{"a configuration", base, ErrNoPlan},
		{"an image", "\x89PNG\r\n\x1a\n", ErrNoPlan},
		{"a first line without end", magic + strings.Repeat("1", 1000), ErrNoPlan},
		{"a huge one", magic + fmt.Sprintf("1 sha256:00 %d\n", int64(MaxFile)+1), ErrTooLarge},
		{"a large claim", magic + fmt.Sprintf("1 sha256:00 %d\n{}", MaxFile), ErrTruncated},
	} {
		_, err := Read(strings.NewReader(tc.data))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err != nil && !errors.Is(tc.want, ErrTooLarge) && !strings.Contains(err.Error(), "rouse plan -out FILE") {
			t.Errorf("%s: nothing says what to do: %v", tc.name, err)
		}
	}
}

func TestEveryCutOfAPlanFileIsRefused(t *testing.T) {
	t.Parallel()
	_, data := saved(t)
	for n := range len(data) {
		if n > 200 && n%37 != 0 {
			continue
		}
		if _, err := Read(bytes.NewReader(data[:n])); !errors.Is(err, ErrTruncated) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestNoByteOfAPlanFileCanBeChangedWithEffect(t *testing.T) {
	t.Parallel()
	want, data := saved(t)
	header := bytes.IndexByte(data, '\n') + 1
	for n := range data {
		masks := []byte{1 << (n % 8)}
		if n < header {
			masks = masks[:0]
			for m := range 255 {
				masks = append(masks, byte(m+1))
			}
		}
		for _, m := range masks {
			changed := bytes.Clone(data)
			changed[n] ^= m
			got, err := Read(bytes.NewReader(changed))
			if err != nil {
				continue
			}
			if n >= header {
				t.Fatalf("byte %d of the plan can be changed by %#x", n, m)
			}
			if diff := cmp.Diff(want, got); diff != "" { // another space between words is as good
				t.Fatalf("byte %d of the first line changed by %#x: %s", n, m, diff)
			}
		}
	}
}

func TestAPlanFileIsBounded(t *testing.T) {
	t.Parallel()
	f, _ := saved(t)
	f.Files = map[string][]byte{"main.hcl": make([]byte, MaxFile)}
	if err := f.Write(io.Discard); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	_, data := saved(f)
	f.Add(data)
	f.Add(data[:100])
	f.Add([]byte(magic + "1 sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a 2\n{}"))
	f.Add([]byte(base))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Read(bytes.NewReader(data))
		if err != nil {
			if file != nil || err.Error() == "" {
				t.Error("an error and a file, or no words")
			}
			return
		}
		_ = asText(t, file.Plan) // whatever it holds
		var again bytes.Buffer
		if err := file.Write(&again); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzText renders what a file with a good checksum may hold.
func FuzzText(f *testing.F) {
	_, data := saved(f)
	_, body, _ := bytes.Cut(data, []byte("\n"))
	f.Add(body)
	f.Add([]byte(`{"plan":{"format_version":1,"changes":[{"action":"create","pool":"x","name":"x-1","attributes":[{"path":"a\u0000b"}]},{"action":"create","pool":"x","name":"x-2","attributes":[{"path":"a"},{"path":"b"}]}]},"files":{"a":""}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		file := &File{}
		if json.Unmarshal(body, file) != nil || file.Plan == nil {
			return
		}
		text := asText(t, file.Plan)
		if strings.ContainsAny(text, "\x1b\x07\x00") {
			t.Errorf("it could drive a terminal: %q", text)
		}
	})
}

func TestASavedPlanIsStaleWhenWhatItStartsFromHasMoved(t *testing.T) {
	t.Parallel()
	resolved := func(values ...string) (out []Resolved) {
		for i, v := range values {
			out = append(out, Resolved{Worker: fmt.Sprintf("w%d", i), Attr: "ami", After: v})
		}
		return out
	}
	was := &Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: resolved("ami-1", "ami-2")}
	for _, tc := range []struct {
		name string
		now  Plan
		want []string // "" : it holds
	}{
		{"the same", *was, nil},
		{"another summary", Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: was.Resolved, Summary: Summary{Add: 3}}, nil},
		{"another master", Plan{Master: "xyz", Base: 3, Refreshed: true, Resolved: was.Resolved}, []string{"master abc", "xyz"}},
		{"another generation", Plan{Master: "abc", Base: 4, Refreshed: true, Resolved: was.Resolved}, []string{"generation 3", "generation 4"}},
		{"another image", Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: resolved("ami-1", "ami-9")}, []string{"ami of worker.w1 was ami-2 and is ami-9"}},
		{"one more", Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: resolved("ami-1", "ami-2", "ami-3")}, []string{"worker.w2"}},
		{"one less", Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: resolved("ami-1")}, []string{"worker.w1 was ami-2 and is not known now"}},
		{"many", Plan{Master: "abc", Base: 3, Refreshed: true, Resolved: resolved("a", "b", "c", "d", "e")}, []string{"and 2 more"}},
		{"not asked", Plan{Master: "abc", Base: 3}, nil},
	} {
		err := was.Stale(&tc.now)
		if (err != nil) != (tc.want != nil) || err != nil && !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, w := range tc.want {
			if err != nil && !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", tc.name, err, w)
			}
		}
	}
}
