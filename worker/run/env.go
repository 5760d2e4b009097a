package run

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

var reference = regexp.MustCompile(`\$\{([0-9a-zA-Z_]*)\}`)

// environ makes a program's environment: own (the agent's), changed by what the master asks for, by Buildbot's rules: a list is joined with
// colons, nil removes, ${NAME} is the agent's own value of NAME ("" if there is none), and the agent's PYTHONPATH follows the master's.
func environ(own []string, env any, workdir string, extra []string) ([]string, error) {
	vars := make(map[string]string, len(own)+8)
	for _, kv := range own {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	ownValue := func(name string) string { return vars[name] }
	changed := map[string]string{}
	var removed []string
	wanted, ok := env.(map[string]any)
	if !ok && env != nil {
		return nil, fmt.Errorf("argument env is a %T, want a map", env)
	}
	for name, v := range wanted {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, fmt.Errorf("argument env: %q is not the name of a variable", name)
		}
		var value string
		switch v := v.(type) {
		case nil:
			removed = append(removed, name)
			continue
		case []any:
			parts := make([]string, len(v))
			for i, e := range v {
				parts[i] = display(e)
			}
			value = strings.Join(parts, string(os.PathListSeparator))
		default:
			value = display(v)
		}
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("argument env: the value of %s has a NUL byte", name)
		}
		if name == "PYTHONPATH" && ownValue(name) != "" {
			value += string(os.PathListSeparator) + "${PYTHONPATH}"
		}
		changed[name] = reference.ReplaceAllStringFunc(value, func(m string) string { return ownValue(m[2 : len(m)-1]) })
	}
	for _, name := range removed {
		delete(vars, name)
	}
	for name, value := range changed {
		vars[name] = value
	}
	vars["PWD"] = workdir
	for _, kv := range extra {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	out := make([]string, 0, len(vars))
	for k, v := range vars {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out, nil
}

// display is a value as text: what Python's str() gives for the types that matter.
func display(v any) string {
	switch v := v.(type) {
	case []byte:
		return string(v)
	case bool:
		if v {
			return "True"
		}
		return "False"
	}
	return fmt.Sprint(v)
}

// quote makes words readable, and usable, as a line for a shell.
func quote(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
			b.WriteString(w)
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "'")
	}
	return b.String()
}
