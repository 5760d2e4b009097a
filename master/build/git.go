package build

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/rouse-ci/rouse/hcl"
	"github.com/rouse-ci/rouse/master/model"
)

// checkout is one run of a git step's program. Each command is an array of words, never a shell's line, and what comes from a request is checked
// before it becomes a word, so that it cannot be taken for an option or for a transport that runs programs.
type checkout struct {
	*step
	spec hcl.GitSpec
	dir  string
	ours bool // it is the repository that the request is about: its branch, revision and patch apply
}

// failed ends a git step with a failure that is not an error of ours.
type failed string

func (f failed) Error() string { return string(f) }

// git runs a git step.
func (s *step) git(spec *hcl.GitSpec) (model.Result, string, error) {
	g := &checkout{step: s, spec: *spec, dir: s.workdir(spec.Workdir)}
	g.defaults(&s.req.Source)
	text, err := g.run()
	if f := failed(""); errors.As(err, &f) {
		return model.Failure, string(f), nil
	}
	return model.Success, text, err
}

// defaults fills in from the request what the step leaves open. A step that names another repository than the request's does not get its
// branch, and one that names another branch does not get its revision.
func (g *checkout) defaults(src *model.Source) {
	if g.spec.Repository == "" {
		g.spec.Repository = src.Repository
	}
	if g.ours = src.Repository == "" || src.Repository == g.spec.Repository; !g.ours {
		return
	}
	if g.spec.Revision == "" && (g.spec.Branch == "" || g.spec.Branch == src.Branch) {
		g.spec.Revision = src.Revision
	}
	if g.spec.Branch == "" {
		g.spec.Branch = src.Branch
	}
}

func (g *checkout) run() (string, error) {
	src := &g.req.Source
	if err := g.check(); err != nil {
		if err := g.note(err.Error()); err != nil {
			return "", err
		}
		return "", failed(err.Error())
	}
	if err := g.update(); err != nil {
		return "", err
	}
	rev, err := g.head()
	if err != nil {
		return "", err
	}
	if g.ours {
		g.setProp("got_revision", fromSource, rev)
	}
	text := "checked out " + rev[:12]
	if g.ours && src.Patch != nil && len(src.Patch.Body) > 0 {
		if err := g.patch(src.Patch); err != nil {
			return "", err
		}
		text += " and patched it"
	}
	return text, nil
}

var (
	helperTransport = regexp.MustCompile(`^[A-Za-z0-9+.-]*::`)
	badRef          = regexp.MustCompile(`[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/.]|/\.|[/.]$|\.lock(/|$)`) // git-check-ref-format(1)
	objectName      = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

// check refuses what git could misunderstand.
func (g *checkout) check() error {
	repo := g.spec.Repository
	switch {
	case repo == "":
		return failed("no repository: neither the step nor the request names one")
	case repo[0] == '-' || helperTransport.MatchString(repo) || strings.ContainsFunc(repo, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return failed(fmt.Sprintf("repository %q is refused", repo))
	case g.spec.Branch != "" && badRef.MatchString(g.spec.Branch):
		return failed(fmt.Sprintf("branch %q is not a valid name", g.spec.Branch))
	case g.spec.Revision != "" && badRef.MatchString(g.spec.Revision):
		return failed(fmt.Sprintf("revision %q is not a valid name", g.spec.Revision))
	}
	if p := g.req.Source.Patch; p != nil && g.ours {
		if p.Level < 0 || p.Level > 100 {
			return failed(fmt.Sprintf("patch level %d is refused", p.Level))
		}
		if p.Subdir != "" && !localPath(p.Subdir) {
			return failed(fmt.Sprintf("the patch's directory %q is outside the checkout", p.Subdir))
		}
	}
	return nil
}

// update makes the working tree what was asked for. A clone that cannot be used is made anew, once.
func (g *checkout) update() error {
	anew := g.spec.Mode == "clobber"
	if !anew {
		d, err := g.try("--git-dir=.git", "rev-parse", "--git-dir") // .git of this very directory, not of one above it
		if err != nil {
			return err
		}
		anew = !d.ok()
	}
	if anew {
		return g.clone()
	}
	fetched, err := g.fetch()
	if err != nil {
		return err
	}
	if !fetched {
		// Can the repository not be reached, or has it no such branch? Then a good clone must not be thrown away.
		ref := "HEAD"
		if g.spec.Branch != "" && (g.spec.Revision == "" || g.spec.Shallow == 0) {
			ref = g.spec.Branch
		}
		d, err := g.try("ls-remote", "--exit-code", "--", g.spec.Repository, ref)
		switch {
		case err != nil:
			return err
		case d.RC == 2: // of --exit-code
			return failed(g.spec.Repository + " has no " + ref)
		case !d.ok():
			return failed("cannot fetch from " + g.spec.Repository)
		}
		return g.clone()
	}
	ok, err := g.reset()
	if err != nil {
		return err
	}
	if !ok {
		return g.clone()
	}
	return nil
}

// clone makes the working tree from nothing.
func (g *checkout) clone() error {
	d, err := g.command(cmd{name: "rmdir", show: "rm -rf " + quote([]string{g.dir}), again: true,
		args: map[string]any{"paths": []string{g.dir}, "timeout": seconds(g.spec.Timeout), "logEnviron": false}})
	if err != nil {
		return err
	}
	if !d.ok() {
		return failed("cannot remove the old checkout")
	}
	if d, err = g.try("init", "--quiet", "."); err != nil {
		return err
	} else if !d.ok() {
		return failed("cannot make a repository (exit " + strconv.Itoa(d.RC) + ")")
	}
	if ok, err := g.fetch(); err != nil {
		return err
	} else if !ok {
		return failed("cannot fetch " + g.wanted() + " from " + g.spec.Repository)
	}
	if ok, err := g.reset(); err != nil {
		return err
	} else if !ok {
		return failed("cannot check out " + g.wanted())
	}
	return nil
}

func (g *checkout) wanted() string {
	switch {
	case g.spec.Revision != "":
		return g.spec.Revision
	case g.spec.Branch != "":
		return g.spec.Branch
	}
	return "HEAD"
}

// fetch gets what is wanted from the repository; FETCH_HEAD is then the branch, or with a shallow revision that revision. It says whether it
// could. It fetches from the address and not from a remote, so that an old clone with another origin does no harm.
func (g *checkout) fetch() (bool, error) {
	args := []string{"fetch", "--force", "--no-recurse-submodules"}
	if g.spec.Shallow > 0 {
		args = append(args, "--no-tags", "--depth", strconv.Itoa(g.spec.Shallow))
	} else {
		args = append(args, "--tags")
	}
	args = append(args, "--", g.spec.Repository)
	switch {
	case g.spec.Revision != "" && g.spec.Shallow > 0:
		args = append(args, g.spec.Revision)
	case g.spec.Branch != "":
		args = append(args, g.spec.Branch)
	case g.spec.Revision != "":
		args = append(args, "+refs/heads/*:refs/remotes/origin/*")
	default:
		args = append(args, "HEAD")
	}
	d, err := g.try(args...)
	return d.ok(), err
}

// reset puts the working tree at what is wanted.
func (g *checkout) reset() (bool, error) {
	target := "FETCH_HEAD"
	if g.spec.Revision != "" && g.spec.Shallow == 0 {
		target = g.spec.Revision
		if !objectName.MatchString(target) { // a tag or a branch of the repository, or a short name of a commit
			d, err := g.try("rev-parse", "--verify", "--quiet", "refs/remotes/origin/"+target)
			if err != nil {
				return false, err
			}
			if d.ok() {
				target = "refs/remotes/origin/" + target
			}
		}
	}
	d, err := g.try("reset", "--hard", target, "--")
	if err != nil {
		return false, err
	}
	if !d.ok() && target == g.spec.Revision {
		// Not on the branch: ask for that very commit.
		if d, err = g.try("fetch", "--force", "--", g.spec.Repository, target); err != nil || !d.ok() {
			return false, err
		}
		if d, err = g.try("reset", "--hard", "FETCH_HEAD", "--"); err != nil {
			return false, err
		}
	}
	if !d.ok() {
		return false, nil
	}
	if g.spec.Mode == "clean" {
		if d, err = g.try("clean", "-ffdx"); err != nil || !d.ok() {
			return false, err
		}
	}
	if g.spec.Submodules {
		for _, args := range [][]string{{"submodule", "sync", "--recursive"}, {"submodule", "update", "--init", "--recursive", "--force"}} {
			if d, err = g.try(args...); err != nil || !d.ok() {
				return false, err
			}
		}
	}
	return true, nil
}

// head is the commit that is checked out.
func (g *checkout) head() (string, error) {
	c := g.words("rev-parse", "HEAD")
	c.capture, c.commit = true, true
	d, err := g.command(c)
	if err != nil {
		return "", err
	}
	rev := strings.TrimSpace(d.Out)
	if !d.ok() || !objectName.MatchString(rev) {
		return "", failed("cannot tell what was checked out")
	}
	return rev, nil
}

// patch applies a request's patch to the working tree and the index, so that the next reset undoes it.
func (g *checkout) patch(p *model.Patch) error {
	file := path.Join(g.dir, ".git", "rouse.patch")
	d, err := g.command(cmd{name: "download_file", again: true, show: fmt.Sprintf("sending the patch (%d bytes)", len(p.Body)),
		args: map[string]any{"path": file, "maxsize": nil, "blocksize": blockSize, "mode": 0o600}, download: newReader(p.Body)})
	if err != nil {
		return err
	}
	if !d.ok() {
		return failed("cannot send the patch to the worker")
	}
	args := []string{"apply", "--index", "--whitespace=nowarn", "-p" + strconv.Itoa(p.Level)}
	if p.Subdir != "" {
		args = append(args, "--directory="+path.Clean(p.Subdir))
	}
	if d, err = g.try(append(args, "--", ".git/rouse.patch")...); err != nil {
		return err
	}
	if !d.ok() {
		return failed("the patch does not apply")
	}
	return nil
}

// try runs one git command. That it fails is the caller's matter.
func (g *checkout) try(args ...string) (done, error) { return g.command(g.words(args...)) }

func (g *checkout) words(args ...string) cmd {
	env := maps.Clone(g.spec.Env)
	if env == nil {
		env = map[string]string{}
	}
	env["GIT_TERMINAL_PROMPT"] = "0"
	return g.shellCmd(&hcl.ShellSpec{Argv: append([]string{"git"}, args...), Workdir: g.dir, Env: env, Timeout: g.spec.Timeout})
}
