# make help lists the targets.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOLS := $(CURDIR)/.cache/bin
SEEDS ?= 200
KILLS ?= 200
FUZZTIME ?= 10s
BEGAN := $(shell date +%s)
# rouse speaks to libvirt through libvirt's own library, which is opened when it is needed: nothing of it must be installed to build or to start.
# Without a C compiler rouse is built without libvirt, and says so when a plan asks.
export CGO_ENABLED ?= $(if $(shell command -v gcc),1,0)
export GOFLAGS := $(filter-out -tags=%,$(GOFLAGS)) -tags=libvirt_dlopen

.PHONY: help build demo test race sim sim-bugs crash fuzz golden bench bench-vs-buildbot lint check clean peers vuln moto e2e-ec2 guest-tools e2e-libvirt bench-libvirt packer-validate packer-build images-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build both programs into bin/
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rouse
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rouse-worker

demo: ## a master, latent workers, a real build, nothing left behind
	@.ci/demo

test: peers moto guest-tools ## all tests, the EC2 storm, images, libvirt's guests, the demo; what CI runs; DEBIAN=no: the minimal image only
	$(GO) vet ./...
	ROUSE_PEERS=require $(GO) test -timeout 15m ./...
	$(MAKE) --no-print-directory e2e-ec2
	.ci/guests $(BEGAN)
	$(MAKE) --no-print-directory demo

peers: ## install the unmodified Buildbot workers that tests attach
	.ci/buildbot-peers

moto: ## install the EC2 API server that tests run against
	.ci/moto

guest-tools: # what tests of libvirt and of images need of the machine
	@.ci/libvirt || echo "make: libvirt, QEMU and the tools that make images cannot be installed: tests that need them are skipped"

e2e-ec2: moto ## rouse on EC2's API under all faults; deeper: make e2e-ec2 BUILDS=2000 KILLS=40 SEED=7
	.ci/e2e-ec2

e2e-libvirt: ## rouse with real guests, on a libvirtd of its own; more: make e2e-libvirt PARALLEL=4 ROUSE_FAST=10
	.ci/e2e-libvirt

bench-libvirt: ## guests cold and from memory, and the provider beside Buildbot's steps (on a quiet machine); lines NAME_seconds=…
	BENCH=1 DEBIAN=no RUN='^TestBench$$' .ci/e2e-libvirt

packer-validate: ## Packer reads the image templates; builds and boots nothing
	.ci/packer
	images/packer/build validate

packer-build: ## Packer makes its image for QEMU, from a Debian base that is made here: minutes
	images/packer/build local

images-test: ## all images are made, boot, attach and end; broken ones are found; DEEP=1: by all identities; DEBIAN=no: the minimal one only
	GO=$(GO) .ci/images-test

race: peers moto guest-tools ## all tests under the race detector (needs gcc)
	CGO_ENABLED=1 ROUSE_PEERS=require $(GO) test -race -timeout 40m ./...

sim: ## the simulator: make sim SEEDS=10000
	$(GO) test ./master/sim -count=1 -timeout 6h -v -run TestSeeds -args -seeds $(SEEDS)

sim-bugs: ## plant bugs in a scratch copy of the core; the simulator (or, last, the tests of the core) must find each
	.ci/sim-bugs

crash: ## kill -9 the master, at random moments: make crash KILLS=1000
	KILLS=$(KILLS) $(GO) test ./cmd/rouse/e2e -count=1 -timeout 2h -v -run 'TestKill'

fuzz: ## every fuzz target for FUZZTIME each
	@set -e; grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r f; do \
	  for t in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$f | cut -d' ' -f2); do \
	    echo "$$t in $$(dirname $$f)"; $(GO) test $$(dirname $$f) -run '^$$' -fuzz "^$$t\$$" -fuzztime $(FUZZTIME); done; done

golden: ## write all golden files anew (read the difference before you commit it)
	@set -e; for p in $$(grep -rlE 'flag\.Bool\("update"|UPDATE_GOLDEN' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  echo "$$p"; if grep -qE 'flag\.Bool\("update"' $$p/*_test.go; then $(GO) test $$p -count=1 -update >/dev/null || $(GO) test $$p; \
	  else UPDATE_GOLDEN=1 $(GO) test $$p -count=1 -run TestScript >/dev/null; $(GO) test $$p -run TestScript; fi; done

bench: ## all benchmarks, in the format that benchstat reads
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-vs-buildbot: peers build ## the real Buildbot beside rouse; ends with lines NAME_ratio=NUMBER
	.ci/bench-vs-buildbot

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

$(TOOLS)/govulncheck:
	GOBIN=$(TOOLS) $(GO) install golang.org/x/vuln/cmd/govulncheck@v1.8.0

lint: $(TOOLS)/golangci-lint ## golangci-lint
	$(TOOLS)/golangci-lint run ./...

vuln: $(TOOLS)/govulncheck ## govulncheck (needs the vulnerability database, or GOVULNDB=file://...)
	$(TOOLS)/govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./...

check: lint race vuln ## everything that must be clean besides the tests

clean: ## remove what the targets have made
	rm -rf bin .cache
