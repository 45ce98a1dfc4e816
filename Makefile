# SPDX-License-Identifier: GPL-2.0-only
# `make help` lists what can be done.

KVER    ?= $(shell uname -r)
DESTDIR ?=
CARGO   ?= cargo
CLANG   ?= clang
FILTER  ?=
SECONDS ?= 60

MODULE  := kmod/tcp_splice.ko
CTL     := target/release/tcp-splice-ctl
BENCH   := target/release/tcp-splice-bench
MODDIR  := $(DESTDIR)/lib/modules/$(KVER)/extra
SBINDIR := $(DESTDIR)/usr/sbin

.PHONY: all help deps module bpf ctl bench-program install clean vm demo bench bench-ring costs instructions instructions-quick test test-host test-vm test-conformance test-debug test-debug-quick test-kcsan checkers test-compat models fuzz matrix check

all: module bpf ctl bench-program ## build the module, the policy program, the control tool and the benchmark (the default)

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'
	@echo 'Variables: KVER=$(KVER)  DESTDIR=$(DESTDIR)  FILTER=  (part of the names of the tests to run)  SECONDS=$(SECONDS)'

deps: ## install the packages needed to build here (run it with sudo)
	@KVER='$(KVER)' sh xtask/host/deps.sh

module: ## build kmod/tcp_splice.ko for KVER
	$(MAKE) -C kmod KVER='$(KVER)'

bpf: build/policy.bpf.o ## build the policy program alone, into build/ (the tool has it built in)

build/policy.bpf.o: $(wildcard bpf/*)
	@mkdir -p build
	CLANG='$(CLANG)' sh bpf/compile.sh $@

ctl: ## build tcp-splice-ctl
	$(CARGO) build --release --locked -p tcp-splice-ctl

bench-program: ## build tcp-splice-bench, which tcp-splice-ctl bench runs
	$(CARGO) build --release --locked -p tcp-splice-bench

# Builds nothing, so that `sudo make install` needs no compiler in root's PATH.
install: ## install what was built into DESTDIR
	@for file in $(MODULE) $(CTL) $(BENCH); do \
		[ -e $$file ] || { echo "$$file is not there: run make first" >&2; exit 1; }; done
	@for built in $$(PATH="$$PATH:/usr/sbin:/sbin" modinfo -F vermagic $(MODULE) | cut -d' ' -f1); do \
		[ "$$built" = '$(KVER)' ] || \
		{ echo "$(MODULE) was built for $$built: run make KVER=$(KVER), or make install KVER=$$built" >&2; exit 1; }; done
	install -D -m 644 $(MODULE) '$(MODDIR)/tcp_splice.ko'
	install -D -m 755 -t '$(SBINDIR)' $(CTL) $(BENCH)
	@[ -n '$(DESTDIR)' ] || { echo depmod -a '$(KVER)'; PATH="$$PATH:/usr/sbin:/sbin" depmod -a '$(KVER)'; }

clean: ## remove what was built here (not the cache of the VM world: cargo xtask purge)
	$(MAKE) -C kmod clean KVER='$(KVER)'
	$(CARGO) clean
	rm -rf build

vm: ## a shell in a VM with everything installed
	@$(CARGO) xtask vm

demo: ## measure real programs in a VM: plain TCP, spliced, spliced with busy polling
	@$(CARGO) xtask demo

bench: ## measure everything in a VM: messages by size and pairs beside AF_UNIX and pipes, and real programs (an hour at most)
	@$(CARGO) xtask bench

bench-ring: ## measure the ring's core on this machine, beside other people's rings and a plain copy
	$(CARGO) bench --locked -p tcp-splice-core --bench ring -- $(if $(FILTER),'$(FILTER)')

costs: ## measure in a VM what connections cost: making them, having many, using several at once
	@$(CARGO) xtask costs

instructions: ## count the instructions of one message in an emulated VM, and compare with bench/instructions.json
	@$(CARGO) xtask instructions

instructions-quick: ## the same for a few messages only, as CI does
	@$(CARGO) xtask instructions --quick

test: ## host tests, then the tests in a VM
	@$(CARGO) xtask test $(FILTER)

test-host: ## host tests only
	@$(CARGO) xtask test-host

test-vm: ## tests in a VM only
	@$(CARGO) xtask test-vm $(FILTER)

test-conformance: ## every case over plain TCP and spliced, in a VM, with what differs
	@$(CARGO) xtask vm -- tcp-splice-conformance $(FILTER)

test-debug: ## the tests in a VM whose kernel has KASAN, lockdep and the like (builds that kernel once)
	@$(CARGO) xtask test-vm --debug-kernel $(FILTER)

test-debug-quick: ## of these, what touches lifetimes and locks (a quarter of an hour at most)
	@$(CARGO) xtask test-vm --debug-kernel --quick

test-kcsan: ## those in which threads meet, in a VM whose kernel has KCSAN, which finds data races (builds that kernel once)
	@$(CARGO) xtask test-vm --kcsan --quick

checkers: ## see each checker of these kernels find a bug that is there on purpose
	@$(CARGO) xtask checkers $(FILTER)

matrix: ## build for every kernel that Debian offers, test on those that boot (docs/kernels.md)
	@$(CARGO) xtask matrix --keep $(FILTER)

test-compat: ## other people's test suites in a VM, over plain TCP and spliced (at most 40 minutes)
	@$(CARGO) xtask compat -- $(FILTER)

models: ## every order of the life of connections, those that take minutes too, on the host
	TCP_SPLICE_MODELS=all $(CARGO) test --release --locked -p tcp-splice-core --test life -- --nocapture $(FILTER)

fuzz: ## inputs made up by libFuzzer, SECONDS=60 for each parser and state machine, on the host
	@$(CARGO) xtask fuzz --seconds $(SECONDS) $(FILTER)

check: ## format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
