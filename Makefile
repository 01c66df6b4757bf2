# rucflow. `make help` lists what there is.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

MODULES   := shared gateway scraper cachewriter deploy
BINARIES  := bin/rucflow bin/gateway bin/scraper bin/cachewriter bin/audit bin/prewarm bin/replica
TOOLS     := $(CURDIR)/.tools

LINT_VERSION := v2.15.0
LINT         := $(TOOLS)/golangci-lint-$(LINT_VERSION)
VULN_VERSION := v1.8.0

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

# The engine http does without Chromium.
ENGINE_NEEDS := $(if $(filter http,$(SUNAT_ENGINE)),,need-chromium)

.PHONY: demo
demo: $(ENGINE_NEEDS) bin/rucflow ## the whole pipeline in one process, on the bundled replica of SUNAT's page
	@echo 'Try: curl -i localhost:8000/obtener-ruc/20131312955      (Ctrl-C ends the demo)'
	@exec bin/rucflow -replica

.PHONY: run
run: $(ENGINE_NEEDS) bin/rucflow ## the whole pipeline in one process, asking SUNAT itself
	@exec bin/rucflow

.PHONY: build
build: $(BINARIES) ## the binaries, into bin/

# go build knows best whether a binary is up to date. Static, as in the images.
.PHONY: $(BINARIES)
bin/rucflow:     PACKAGE := ./deploy/cmd/rucflow
bin/gateway:     PACKAGE := ./gateway/cmd/gateway
bin/scraper:     PACKAGE := ./scraper/cmd/scraper
bin/replica:     PACKAGE := ./scraper/cmd/replica
bin/cachewriter: PACKAGE := ./cachewriter/cmd/cachewriter
bin/audit:       PACKAGE := ./cachewriter/cmd/audit
bin/prewarm:     PACKAGE := ./cachewriter/cmd/prewarm
$(BINARIES):
	@CGO_ENABLED=0 go build -trimpath -o $@ $(PACKAGE)

# Everything is compiled before the first test runs: tests with deadlines of a second
# failed beside a compiler. The longest package begins first; tests wait more than they
# compute, so that on two cores three packages run at a time.
LANES = $(shell n=$$(nproc); echo $$((n > 3 ? n : 3)))
.PHONY: test
test: need-chromium need-redis need-curl need-node lint standalone build ## everything CI checks: lint, builds, all tests with the race detector
	@go vet work
	@go test -race -exec true work >/dev/null
	@go test -race -shuffle=on -timeout 9m -p $(LANES) ./deploy/e2e work
	@go test -run Generated ./scraper/sunat
	@test -n "$${SUNAT_PAGES_DIR:-}" || echo 'SUNAT_PAGES_DIR is not set: the saved pages were not tested.'

.PHONY: series
series: need-chromium need-redis ## the long form of the fleet's tests: kills by the dozen, Redis coming and going, SUNAT's patience (half an hour)
	@cd deploy && go test -race -count=1 -timeout 60m -v -run 'TestSeries|TestKill|TestPolite' ./e2e -full

.PHONY: chaos
chaos: need-chromium need-redis ## one fault after the other in a running fleet, and a table of what held (ten minutes)
	@cd deploy && go test -race -count=1 -timeout 40m -v -run 'TestChaos' ./e2e -full

# Without the race detector: it would slow the replica, which answers from the test's process.
.PHONY: soak
soak: need-chromium need-redis ## 10,000 visits with faults in between, and a table of what grew (twenty minutes)
	@cd deploy && go test -tags soak -count=1 -timeout 60m -v -run TestSoak ./e2e -full

# Its flags go into BENCH: make bench BENCH='-only hits,frozen -json before.json'. Of its
# time the soak takes twenty minutes, last; the losses one minute and a half.
.PHONY: bench bench-compare
bench: need-chromium need-redis ## the numbers to reach, measured beside the least programs; fails where a floor is not held (half an hour, most of it `make soak`)
	@go run ./deploy/cmd/bench $(BENCH)
bench-compare: ## two files of bench -json side by side: make bench-compare A=before.json B=after.json
	@go run ./deploy/cmd/bench compare '$(A)' '$(B)'

.PHONY: screenshots
screenshots: need-chromium ## the web page in each of its states, into screenshots/
	@cd deploy && go test -count=1 -run TestPage_LooksRight ./page -screenshots $(CURDIR)/screenshots

.PHONY: docs
docs: need-chromium ## the tables in README.md, from the code, and deploy/schemas, from openapi.yaml
	@cd deploy && go test -count=1 -run TestReadme ./e2e -update
	@cd deploy && go test -count=1 -run TestSchemas_AreThose ./schemas -update

.PHONY: standalone
standalone: # each module is tidy and builds without the workspace
	@for m in $(MODULES); do (cd $$m && go mod tidy -diff && GOWORK=off go build ./...); done

.PHONY: lint
lint: $(LINT) ## golangci-lint over all modules
	@$(LINT) run $(MODULES:%=./%/...)

$(LINT):
	@mkdir -p $(TOOLS)/new
	@echo 'Building golangci-lint $(LINT_VERSION); this takes some minutes, once.'
	@GOBIN=$(TOOLS)/new GOWORK=off go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(TOOLS)/new/golangci-lint $@

# Not part of test: it asks vuln.go.dev, and new findings come without a change of ours.
.PHONY: vuln
vuln: ## known vulnerabilities in what the binaries call (needs the internet)
	@for m in $(MODULES); do (cd $$m && GOWORK=off go run golang.org/x/vuln/cmd/govulncheck@$(VULN_VERSION) ./...); done

.PHONY: fmt
fmt: $(LINT) ## format the code
	@$(LINT) fmt $(MODULES:%=./%/...)

.PHONY: tidy
tidy: ## go.mod and go.sum of every module
	@for m in $(MODULES); do (cd $$m && go mod tidy); done
	@go work sync
	@for m in $(MODULES); do (cd $$m && go mod tidy); done

# A missing program is installed by root on Debian; anybody else is told the line.
.PHONY: need-chromium need-redis need-curl need-node
need-chromium:
	@deploy/need.sh chromium-headless-shell "$${CHROME_PATH:-}" /usr/lib/chromium/chromium-headless-shell /usr/lib/chromium/chromium
need-redis:
	@deploy/need.sh redis-server "$$(command -v redis-server || true)"
need-curl: # of the README's first steps, which a test takes
	@deploy/need.sh curl "$$(command -v curl || true)"
need-node: # of an example, which a test runs
	@deploy/need.sh nodejs "$$(command -v node || true)"
	@deploy/need.sh npm "$$(command -v npm || true)"
