package hcl

import (
	"slices"
	"strings"
	"time"

	hcl2 "github.com/hashicorp/hcl/v2"
	cron "github.com/netresearch/go-cron"
)

var schedulerKinds = []string{"force", "triggerable", "periodic", "nightly"}

var schedulerSchemas = map[string]*hcl2.BodySchema{
	"force":       {Attributes: attributes("builders", "priority", "properties")},
	"triggerable": {Attributes: attributes("builders", "priority", "properties")},
	"periodic":    {Attributes: attributes("builders", "priority", "properties", "every", "repository", "branch")},
	"nightly":     {Attributes: attributes("builders", "priority", "properties", "cron", "zone", "repository", "branch")},
}

// schedulerBlocks decodes the scheduler blocks. Names are unique among all kinds, as in Buildbot.
func (l *loader) schedulerBlocks(blocks hcl2.Blocks) {
	for _, b := range blocks {
		kind, name := b.Labels[0], b.Labels[1]
		schema, ok := schedulerSchemas[kind]
		if !ok {
			l.errorf(&b.LabelRanges[0], "Unknown kind of scheduler", "There is no kind of scheduler %q.%s", kind, didYouMean(kind, schedulerKinds))
			continue
		}
		l.declare("scheduler", name, b, 1)
		content, diags := l.content(b.Body, schema, oldScheduler)
		l.diags = append(l.diags, diags...)
		a := &attrs{m: content.Attributes, ctx: l.refs, diags: &l.diags}
		s := Scheduler{Name: name, Kind: kind, Range: b.DefRange}
		a.integer("priority", &s.Priority, -1_000_000, 1_000_000)
		a.properties("properties", &s.Properties)
		a.address("repository", &s.Repository, l.cfg.env.accept)
		a.str("branch", &s.Branch)
		l.when(a, &s, b)

		errors := countErrors(l.diags)
		s.Builders = l.names(a, "builders", "builder")
		if len(s.Builders) == 0 && countErrors(l.diags) == errors {
			l.errorf(&b.DefRange, "Scheduler without builders", "The scheduler %q starts nothing. Name its builders: builders = [builder.NAME].", name)
		}
		l.cfg.Schedulers = append(l.cfg.Schedulers, s)
	}
}

// when reads the times of a periodic or nightly scheduler.
func (l *loader) when(a *attrs, s *Scheduler, b *hcl2.Block) {
	switch s.Kind {
	case "periodic":
		if !a.has("every") {
			l.errorf(&b.DefRange, "How often?", "A periodic scheduler needs every = \"1h\" or another duration.")
			return
		}
		a.duration("every", &s.Every, false)
		if s.Every > 0 && s.Every < time.Second {
			a.bad("every", "It is %s; it must be a second at least.", s.Every)
		}
	case "nightly":
		if !a.has("cron") {
			l.errorf(&b.DefRange, "When?", "A nightly scheduler needs five fields as in crontab, such as cron = \"30 3 * * *\": minute, hour, day of the month, month, day of the week.")
			return
		}
		a.text("cron", &s.Cron)
		a.text("zone", &s.Zone)
		if s.Cron != "" {
			if err := checkCron(s.Cron); err != nil {
				a.bad("cron", "%s. Five fields are needed, such as \"30 3 * * *\": minute, hour, day of the month, month, day of the week.", capital(err.Error()))
			}
		}
		if _, err := time.LoadLocation(s.Zone); err != nil {
			a.bad("zone", "%q is not a time zone such as \"UTC\" or \"Europe/Berlin\".", s.Zone)
		}
	}
}

// checkCron is what the scheduler does with the text, apart from the time zone, which is an attribute of its own.
func checkCron(spec string) error {
	if fields := strings.Fields(spec); len(fields) > 0 && slices.ContainsFunc([]string{"TZ=", "CRON_TZ=", "@"}, func(p string) bool { return strings.HasPrefix(fields[0], p) }) {
		return errCron
	}
	_, err := cron.ParseStandard(spec)
	return err
}

var errCron = cronError("time zones and @ words are not understood here; a zone goes into the attribute zone")

type cronError string

func (e cronError) Error() string { return string(e) }
