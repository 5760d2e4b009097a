package hcl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"

	hcl2 "github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// fileReader reads the files that expressions name, each once: what a configuration was made from does not change while it is in use, and comes with
// its text when an older generation is loaded again after a restart.
type fileReader struct {
	dir string // relative names are relative to it

	mu   sync.Mutex
	size int
	seen map[string][]byte // by the name that the expression used
}

// maxDataTotal bounds what one configuration reads through expressions.
const maxDataTotal = 16 << 20

func (r *fileReader) read(name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if data, ok := r.seen[name]; ok {
		return data, nil
	}
	data, err := readBounded(r.path(name), maxDataSize)
	if err != nil {
		return nil, err
	}
	if r.size += len(data); r.size > maxDataTotal {
		return nil, fmt.Errorf("this configuration reads more than %d bytes of files", maxDataTotal)
	}
	r.seen[name] = data
	return data, nil
}

func (r *fileReader) text(name string) (string, error) {
	if isConfigFile(filepath.Base(name)) && filepath.Base(name) == filepath.Clean(name) {
		return "", fmt.Errorf("%s is a part of the configuration, not data for it", name)
	}
	data, err := r.read(name)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(data) {
		return "", fmt.Errorf("%s is not UTF-8 text", name)
	}
	return string(data), nil
}

func (r *fileReader) exists(name string) (bool, error) {
	r.mu.Lock()
	_, ok := r.seen[name]
	r.mu.Unlock()
	if ok {
		return true, nil
	}
	info, err := os.Stat(r.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular(), err
}

// path makes a name that the configuration gives relative to its directory.
func (r *fileReader) path(name string) string { return inside(r.dir, name) }

func inside(dir, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

func (r *fileReader) functions() map[string]function.Function {
	return map[string]function.Function{
		"file":     text(r.text),
		"basename": text(func(s string) (string, error) { return filepath.Base(s), nil }),
		"dirname":  text(func(s string) (string, error) { return filepath.Dir(s), nil }),
		"abspath":  text(func(s string) (string, error) { return filepath.Abs(r.path(s)) }),
		"fileexists": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "path", Type: cty.String}},
			Type:   function.StaticReturnType(cty.Bool),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				ok, err := r.exists(args[0].AsString())
				if err != nil {
					return cty.UnknownVal(cty.Bool), function.NewArgError(0, err)
				}
				return cty.BoolVal(ok), nil
			},
		}),
	}
}

// templateFunc is templatefile(path, vars): the file's text is a template in which only vars and the functions are known.
func (r *fileReader) templateFunc(functions map[string]function.Function) function.Function {
	render := func(args []cty.Value) (cty.Value, error) {
		name := args[0].AsString()
		src, err := r.text(name)
		if err != nil {
			return cty.DynamicVal, function.NewArgError(0, err)
		}
		vars := args[1]
		if vars.IsNull() || !(vars.Type().IsObjectType() || vars.Type().IsMapType()) {
			return cty.DynamicVal, function.NewArgErrorf(1, "an object with the template's variables is needed")
		}
		tokens, diags := hclsyntax.LexTemplate([]byte(src), name, hcl2.InitialPos)
		if d := checkDepth(tokens); d != nil && !diags.HasErrors() {
			diags = append(diags, d)
		}
		if diags.HasErrors() {
			return cty.DynamicVal, function.NewArgErrorf(0, "%s", diags.Error())
		}
		expr, diags := hclsyntax.ParseTemplate([]byte(src), name, hcl2.InitialPos)
		if diags.HasErrors() {
			return cty.DynamicVal, function.NewArgErrorf(0, "%s", diags.Error())
		}
		v, diags := expr.Value(&hcl2.EvalContext{Variables: vars.AsValueMap(), Functions: functions})
		if diags.HasErrors() {
			return cty.DynamicVal, function.NewArgErrorf(0, "%s", diags.Error())
		}
		return v, nil
	}
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}, {Name: "vars", Type: cty.DynamicPseudoType}},
		Type: func(args []cty.Value) (cty.Type, error) {
			if !args[0].IsKnown() || !args[1].IsKnown() {
				return cty.DynamicPseudoType, nil
			}
			v, err := render(args)
			return v.Type(), err
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return render(args) },
	})
}
