# banger. `make help` lists the targets; CONTRIBUTING.md explains them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Where an ordinary user may write, and where root does by custom.
PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)
DESTDIR ?=
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Linked statically. The flag is given for the target alone, so that build scripts and macros stay
# ordinary programs.
STATIC_TARGET := x86_64-unknown-linux-gnu
STATIC := --target $(STATIC_TARGET) \
	--config 'target.$(STATIC_TARGET).rustflags=["-C","target-feature=+crt-static"]'
# The guest agent is the only program in the initramfs.
AGENT_FLAGS := --profile agent $(STATIC)

# The agent is root in its guest: its tests are too, in a user namespace unless they are anyway.
ROOT := $(filter 0,$(shell id -u))
AS_ROOT := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='unshare --user --map-auto --map-root-user'

# Tests are always chosen from the whole workspace. Cargo settles the features of dependencies for
# all packages of a command together: another selection is another build of nearly everything.
TEST := $(CARGO) test --locked --workspace

.PHONY: help
help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: deps build ## Installs what is needed, builds, and runs a command in a fresh machine
	$(TARGET_DIR)/debug/banger vm run --rm -- sh -c 'echo "Hello from $$(uname -sr) on $$(hostname)"; head -n 1 /etc/os-release'

.PHONY: test
test: deps all ## Runs every test, real guests included
	$(TEST) $(if $(ROOT),,--exclude banger-agent) -- --test-threads=2
	$(if $(ROOT),,$(AS_ROOT) $(CARGO) test --locked -p banger-agent)

.PHONY: test-docker
test-docker: deps all ## Runs Docker in a guest, which takes some minutes
	$(SMOKE) --scenario docker-in-the-default-guest

# The scenarios as a program of their own; its exit codes, which make turns into its own 2, are
# 0 all passed, 1 some failed, 2 no such scenario, 77 everything skipped.
SMOKE := $(TEST) --quiet --test scenarios --

.PHONY: smoke
smoke: deps all ## Runs scenarios with real guests: SCENARIO=a,b JOBS=n VMM=qemu|firecracker
	BANGER_TEST_BASE=keep $(SMOKE) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(JOBS),--jobs $(JOBS)) $(if $(VMM),--vmm $(VMM))

.PHONY: smoke-list
smoke-list: ## Lists the scenarios with their classes
	@$(SMOKE) --list $(if $(SCENARIO),--scenario $(SCENARIO))

.PHONY: coverage
coverage: deps ## Runs scenarios with instrumented programs and says how much of each crate ran: SCENARIO=a,b
	scripts/coverage $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(JOBS),--jobs $(JOBS))

.PHONY: lab
lab: deps all ## Runs scenarios inside an emulated machine with KVM: SCENARIO=a,b VMM=qemu|firecracker WHO=lab|root
	$(TARGET_DIR)/debug/banger-lab

.PHONY: lab-bench
lab-bench: deps all release ## Measures starts inside that machine, Firecracker's if there is one
	$(CARGO) build --locked --release -p banger-bench
	LAB_BENCH=$(or $(BANGER_BENCH_N),10) $(TARGET_DIR)/debug/banger-lab

.PHONY: check
check: deps-check ## Formatting, lints, documentation, licences, spelling
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	scripts/check-licences
	scripts/check-spelling
	shellcheck --shell=sh lab/*.sh
	shellcheck .ci/run scripts/coverage scripts/install-deps

.PHONY: bench
bench: deps release ## Measures the speed promises side by side
	$(CARGO) run --locked --release -p banger-bench

.PHONY: build
build: agent ## Builds the programs for development
	$(CARGO) build --locked -p banger -p bangerd -p banger-vsock
	install -D -m 0755 $(TARGET_DIR)/debug/banger-vsock $(TARGET_DIR)/lib/banger/banger-vsock

# The guest's programs beside the host's: the former are optimised as a whole, on one processor.
.PHONY: all
all: ## Builds the programs and all tests
	$(MAKE) --no-print-directory --jobs=2 bad-agent workspace

.PHONY: workspace
workspace:
	$(CARGO) build --locked --workspace --all-targets
	install -D -m 0755 $(TARGET_DIR)/debug/banger-vsock $(TARGET_DIR)/lib/banger/banger-vsock

.PHONY: release
release: agent ## Builds the programs for use
	$(CARGO) build --locked --release -p bangerd -p banger-vsock
	$(CARGO) build --locked --profile cli -p banger $(STATIC)
	install -D -m 0755 $(TARGET_DIR)/$(STATIC_TARGET)/cli/banger $(TARGET_DIR)/release/banger
	install -D -m 0755 $(TARGET_DIR)/release/banger-vsock $(TARGET_DIR)/lib/banger/banger-vsock

# The daemon looks for the agent and the vsock program in ../lib/banger, in a build directory as in a prefix.
.PHONY: agent
agent:
	$(CARGO) build --locked -p banger-agent $(AGENT_FLAGS)
	install -D -m 0755 $(TARGET_DIR)/$(STATIC_TARGET)/agent/banger-agent $(TARGET_DIR)/lib/banger/banger-agent

# For the tests of what the host does: an agent that misbehaves, and one that speaks the previous
# protocol. The agent itself is built again last, so that its file is always the real one.
.PHONY: bad-agent
bad-agent:
	$(CARGO) build --locked -p banger-bad-agent $(AGENT_FLAGS)
	$(CARGO) build --locked -p banger-agent --features protocol-1 $(AGENT_FLAGS)
	cd $(TARGET_DIR)/$(STATIC_TARGET)/agent && cp banger-agent banger-agent-protocol-1
	$(MAKE) --no-print-directory agent

.PHONY: deps
deps: ## Installs the system packages that running and testing need
	scripts/install-deps run

.PHONY: deps-check
deps-check:
	scripts/install-deps check

.PHONY: install
install: release ## Installs programs, manual pages and completions under PREFIX
	install -D -m 0755 $(TARGET_DIR)/release/banger $(DESTDIR)$(PREFIX)/bin/banger
	install -D -m 0755 $(TARGET_DIR)/release/bangerd $(DESTDIR)$(PREFIX)/bin/bangerd
	install -D -m 0755 $(TARGET_DIR)/lib/banger/banger-agent $(DESTDIR)$(PREFIX)/lib/banger/banger-agent
	install -D -m 0755 $(TARGET_DIR)/release/banger-vsock $(DESTDIR)$(PREFIX)/lib/banger/banger-vsock
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/banger man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(TARGET_DIR)/release/banger completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/banger
	$(TARGET_DIR)/release/banger completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_banger
	$(TARGET_DIR)/release/banger completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/banger.fish

.PHONY: uninstall
uninstall: ## Removes what `make install` installed
	rm -f $(DESTDIR)$(PREFIX)/bin/banger $(DESTDIR)$(PREFIX)/bin/bangerd
	rm -rf $(DESTDIR)$(PREFIX)/lib/banger
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/banger.1 $(DESTDIR)$(PREFIX)/share/man/man1/banger-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/banger $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_banger $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/banger.fish

.PHONY: clean
clean: ## Removes what was built
	$(CARGO) clean
