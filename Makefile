# The two commands of the README are `make run` and `make test`. Each installs liburing-dev first if it is missing.

SWIFT ?= swift
DOCC ?= docc
# Beside the ordinary build, so that switching does not rebuild.
SIMULATION_SCRATCH = .build/simulation
THREAD_SCRATCH = .build/thread
ADDRESS_SCRATCH = .build/address
DOCUMENTATION = .build/documentation
RESULTS = .build/iocp-bench-results.json
REPORT = .build/iocp-bench-report.html
# By name: what lies in the .build folders of the other packages is not ours.
FORMATTED = Package.swift Sources Tests Examples/Package.swift Examples/Sources Examples/Tests \
	Benchmarks/Package.swift Benchmarks/Sources Benchmarks/Tests \
	Benchmarks/Peers/NIO/Package.swift Benchmarks/Peers/NIO/Sources

.PHONY: run test test-library test-examples simulate model soak test-thread test-address release bench-quick test-bench guards \
	guards-record hosting lint format docs setup clean

setup:
	@.ci/setup

# Builds for release and runs the benchmark's default suites beside raw liburing and epoll, and beside those peers that
# are there: one to two minutes. `make run PEERS=all` also builds SwiftNIO's row, which takes some minutes the first time.
run: setup
	$(SWIFT) build -c release --package-path Benchmarks --product iocp-bench
	@Benchmarks/.build/release/iocp-bench --json $(RESULTS) --report $(REPORT) $(if $(PEERS),--peers $(PEERS))

test: setup test-library test-examples simulate

test-library:
	$(SWIFT) test

test-examples:
	$(SWIFT) build -c release --package-path Examples
	$(SWIFT) test --package-path Examples

# The library over a virtual kernel with virtual threads, by seeds: about a minute on two processors. First it makes
# errors on purpose and sees that each is found. `make simulate SEEDS=1000000 SEED=5` runs as many from that one on,
# `make simulate TRACE=5` shows everything that seed 5 does.
SEEDS ?= 100000
SEED ?= 1
SIMULATE = $(SIMULATION_SCRATCH)/release/iocp-simulate
simulate: setup
	IOCP_SEAM=1 $(SWIFT) build -c release --product iocp-simulate --scratch-path $(SIMULATION_SCRATCH)
ifdef TRACE
	@$(SIMULATE) --trace $(TRACE)
else
	@$(SIMULATE) --prove
	@$(SIMULATE) --seeds $(SEEDS) --first $(SEED)
endif

# Every interleaving of the protocol of sleeping and waking, and mutations of it that must be caught. Needs spin.
model:
	@Tests/Model/check

# The library's tests once more under each sanitizer. Children of a fork start threads, and processes exit amid theirs.
# What XCTest and Foundation leak themselves is not ours. The thread sanitizer makes everything so slow that tests side by
# side starve each other; what threads do to each other the tests make themselves, and the soak.
test-thread: setup
	TSAN_OPTIONS="die_after_fork=0 report_thread_leaks=0" IOCP_HOSTING_COMPLETIONS=50000 $(SWIFT) test --no-parallel --sanitize=thread --scratch-path $(THREAD_SCRATCH)

# Threads that are cancelled, and processes that exit or fork amid everything, lose what they held: leaks are looked for
# in all other suites.
ENDS = ThreadExitTests|ProcessExitTests|ForkTests|endedThread
ADDRESS_TEST = LSAN_OPTIONS=suppressions=$(CURDIR)/.ci/lsan.supp IOCP_HOSTING_COMPLETIONS=200000 \
	$(SWIFT) test --sanitize=address --scratch-path $(ADDRESS_SCRATCH)
test-address: setup
	$(ADDRESS_TEST) --skip "$(ENDS)"
	ASAN_OPTIONS=detect_leaks=0 $(ADDRESS_TEST) --filter "$(ENDS)"

# A random mix of everything for so many minutes, each packet counted: `make soak MINUTES=10 SANITIZE=thread SEED=7`.
# Without a seed each run chooses one, and prints it.
MINUTES ?= 1
soak: setup
	ASAN_OPTIONS=quarantine_size_mb=16 TSAN_OPTIONS="die_after_fork=0 report_thread_leaks=0" \
	LSAN_OPTIONS=suppressions=$(CURDIR)/.ci/lsan.supp $(SWIFT) run \
	    $(if $(SANITIZE),--sanitize=$(SANITIZE) --scratch-path .build/$(SANITIZE)) Soak \
	    --minutes $(MINUTES) $(if $(filter file,$(origin SEED)),,--seed $(SEED))

# Everything, optimized, with warnings as errors.
release: setup
	IOCP_WARNINGS_AS_ERRORS=1 $(SWIFT) build -c release
	IOCP_WARNINGS_AS_ERRORS=1 $(SWIFT) build -c release --package-path Examples
	IOCP_WARNINGS_AS_ERRORS=1 $(SWIFT) build -c release --package-path Benchmarks

# Counts that must not grow: heap allocations, entries into the kernel, instructions. No time is compared with anything.
guards: setup
	$(SWIFT) build -c release --package-path Benchmarks --product iocp-bench
	@Benchmarks/.build/release/iocp-bench guard

# Records the instructions of a post and its dequeue for this compiler and architecture.
guards-record: setup
	$(SWIFT) build -c release --package-path Benchmarks --product iocp-bench
	@Benchmarks/.build/release/iocp-bench guard --record

# Tests of the benchmark's own statistics, report and allocation counter.
test-bench: setup
	$(SWIFT) test --package-path Benchmarks

# Every row once, too briefly to measure anything: each byte is compared. The gate wants all peers to be there.
bench-quick: setup
	$(SWIFT) build -c release --package-path Benchmarks --product iocp-bench
	@Benchmarks/.build/release/iocp-bench --quick --json $(RESULTS) --report $(REPORT) $(if $(PEERS),--peers $(PEERS)) echo file post schedule

# The hosting face for programs in C and C++ that know nothing of Swift: header and shared library, in $(PREFIX).
PREFIX ?= .build/hosting
hosting: setup
	$(SWIFT) build -c release --product iocp_hosting -Xswiftc -static-stdlib --scratch-path .build/hosting-build
	install -D -m 644 Sources/CIOCPHosting/include/iocp_hosting.h $(PREFIX)/include/iocp_hosting.h
	install -D -m 755 -s .build/hosting-build/release/libiocp_hosting.so $(PREFIX)/lib/libiocp_hosting.so

lint:
	$(SWIFT) format lint --strict --recursive $(FORMATTED)

format:
	$(SWIFT) format --in-place --recursive $(FORMATTED)

# Reference and articles of the libraries. A link that does not resolve fails it, like any other warning.
# Parameters whose names say it all are left undocumented, so docc's validation of them is off.
docs: setup
	$(SWIFT) build --build-tests
	$(SWIFT) package dump-symbol-graph --minimum-access-level public --skip-synthesized-members >/dev/null
	@rm -rf $(DOCUMENTATION)
	@for module in IOUring IOCP IOCPHosting; do \
	    mkdir -p $(DOCUMENTATION)/$$module.graph; \
	    for graph in "$$($(SWIFT) build --show-bin-path)"/../symbolgraph/$$module.symbols.json \
	        "$$($(SWIFT) build --show-bin-path)"/../symbolgraph/$$module@*.symbols.json; do \
	        if [ -e "$$graph" ]; then cp "$$graph" $(DOCUMENTATION)/$$module.graph/; fi; \
	    done; \
	    $(DOCC) convert Sources/$$module/$$module.docc --warnings-as-errors \
	        --disable-parameters-and-returns-validation \
	        --fallback-display-name $$module --fallback-bundle-identifier swift-iocp.$$module \
	        --additional-symbol-graph-dir $(DOCUMENTATION)/$$module.graph \
	        --output-path $(DOCUMENTATION)/$$module.doccarchive || exit 1; \
	    echo "$(DOCUMENTATION)/$$module.doccarchive"; \
	done

clean:
	rm -rf .build Benchmarks/.build Examples/.build
