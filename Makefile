# The commands that people type. Each of them says in one line what it does: `make help`.

CARGO ?= cargo
# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),target)
BINARY ?= $(TARGET)/release/portcullis
PREFIX ?= /usr/local
DESTDIR ?=
# What is passed on to the test runner: make test TESTS='routing'
TESTS ?=

# What is passed on to loadtest/peers.py: make bench-peers PEERS='--scenarios plain,h2 --rounds 5'
PEERS ?=

# What is passed on to loadtest/soak.py: make soak-hour SOAK='--seconds 90'
SOAK ?=

# What is passed on to loadtest/cache_suite.py: make bench-cache-suite CACHES='--caches squid --rounds 1'
CACHES ?=

.PHONY: help run test test-stock kills lint lint-openssl release release-pgo bare-pingora bench bench-instructions bench-growth bench-peers bench-websockets bench-bulk bench-compose bench-shared bench-faults bench-cache bench-cache-suite reference \
    soak soak-hour attack fuzz install clean

help: ## Print this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: ## Build (quickly) and run the demo: sample backends, a gateway, and curl lines to paste.
	@scripts/need.sh build
	$(CARGO) build --locked --profile demo
	@exec $(TARGET)/demo/portcullis demo

test: ## Install what the tests need (apt, as root, only what is missing) and run them all.
	@scripts/need.sh build test
	@tests/npm.sh tests/oidc $(TARGET)/oidc
	@tests/npm.sh tests/grpc $(TARGET)/grpc
	@tests/contracts/install.sh $(TARGET)/json-schema-suite
	@tests/openapi/install.sh $(TARGET)/openapi-documents
	@tests/npm.sh tests/cache_suite $(TARGET)/cache-suite
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --locked --config-file .ci/nextest.toml $(TESTS); \
	else \
	    set -x; $(CARGO) test --locked --no-fail-fast --lib --bins --tests -- $(TESTS); \
	fi

test-stock: ## Run what of the tests goes for a stock Pingora server (docs/embed.md) on one. Takes cargo-nextest.
	@scripts/need.sh build test
	PORTCULLIS_ENGINE=pingora $(CARGO) nextest run --locked --config-file .ci/nextest.toml --profile stock $(TESTS)

lint: ## Check the formatting and the lints, warnings being errors.
	@scripts/need.sh build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Not part of `lint`: OpenSSL is compiled from source for it.
lint-openssl: ## Check the build with OpenSSL instead of BoringSSL; several minutes the first time.
	@scripts/need.sh build openssl
	$(CARGO) clippy --locked --no-default-features --features openssl --lib --bins -- -D warnings

release: ## Build the binary to deploy: fat LTO, several minutes.
	@scripts/need.sh build
	$(CARGO) build --locked --release
	@ls -l $(TARGET)/release/portcullis

bench: ## Run the micro benchmarks.
	@scripts/need.sh build
	$(CARGO) bench --locked

release-pgo: ## Build target/pgo/portcullis with profile-guided optimisation: two builds and a training run.
	@scripts/need.sh build peers
	@scripts/need.sh pgo || echo "going on with what is there" >&2
	scripts/release-pgo.sh

# Bare Pingora, the yardstick: another feature, so cargo builds the library once more, but none of what it depends on.
bare-pingora: release
	$(CARGO) build --locked --release --features bare-pingora --example bare_pingora

bench-instructions: bare-pingora ## Count instructions per request under callgrind; fails if one grew by more than 3 %.
	@scripts/need.sh instructions
	loadtest/instructions.py --binary $(BINARY)

bench-growth: release ## Count them again beside 10,000 routes, 100,000 API keys, 1,000 endpoints (also changing), 100 policies; fails over 5 % more.
	@scripts/need.sh instructions
	loadtest/growth.py --binary $(BINARY)

# Without root, what is missing is named and left out.
bench-peers: bare-pingora ## Measure Portcullis beside bare Pingora, nginx, HAProxy, h2o, Envoy, Traefik, Caddy and pingap; writes docs/benchmarks.md.
	@scripts/need.sh peers || echo "going on with what is there" >&2
	loadtest/peers.py --portcullis $(BINARY) --out docs $(PEERS)

reference: ## Write docs/reference.md, docs/policies/ and docs/operate/refusals.md anew from what the code says.
	UPDATE_REFERENCE=1 $(CARGO) test --locked --test main -- --exact packaging::the_reference_is_the_schema \
	    docs::generated::every_policy_has_a_page_and_the_pages_are_current docs::generated::every_reason_is_in_the_table_of_refusals

# The short forms of both are in `make test`. Each WebSocket takes two file descriptors of the gateway and two of the test.
bench-websockets: release ## Say what each of 10,000 idle WebSockets holds, both of its connections; fails over 16 KiB.
	loadtest/websockets.py $(BINARY)

bench-bulk: release ## Move 4 GiB up and down, over HTTP/1.1 and HTTP/2; fails if memory grows by 32 MiB.
	@scripts/need.sh build test
	PORTCULLIS_BINARY=$(abspath $(BINARY)) PORTCULLIS_BULK_MIB=4096 \
	    $(CARGO) test --locked --test main -- --exact --nocapture memory::a_body_of_any_length_takes_constant_memory

bench-compose: release ## Measure a dashboard of five services: 2 ms at most beside its slowest part, and the processor time of 7.5 plain requests.
	@scripts/need.sh build test
	PORTCULLIS_BINARY=$(abspath $(BINARY)) $(CARGO) test --locked --test main -- --nocapture --test-threads 1 compose::figures::a_dashboard

bench-shared: ## Measure limits that gateways share in a Redis, and whether they hold, Redis paused for 10 s included.
	@scripts/need.sh build test
	$(CARGO) build --locked --profile demo
	loadtest/shared_limits.py --portcullis $(TARGET)/demo/portcullis

bench-faults: release ## Kill, stop, slow down and fail one of three endpoints behind Portcullis and behind Envoy; writes docs/beside-envoy.md.
	@scripts/need.sh build test
	loadtest/faults.py --portcullis $(BINARY) --out docs/beside-envoy.md

soak: ## Reload every 100 ms under load for ten minutes; not one request may fail.
	@scripts/need.sh build test
	$(CARGO) build --locked --profile demo
	PORTCULLIS=$(abspath $(TARGET))/demo/portcullis loadtest/reload-soak.sh

soak-hour: ## One hour of mixed load, with clients that misbehave; fails if memory grows.
	@scripts/need.sh build test
	$(CARGO) build --locked --profile demo
	loadtest/soak.py --binary $(TARGET)/demo/portcullis $(SOAK)

bench-cache: release ## Measure a hit on disk beside nginx's, a lookup among a million answers, the memory of each beside Varnish's, and hits while they are purged.
	@scripts/need.sh build test
	loadtest/cache.py $(BINARY)

# Without root, what is missing is named and left out, and what was recorded of it before stays.
bench-cache-suite: ## Run the public tests of HTTP caches against Portcullis, Apache, nginx, Squid, Traffic Server and Varnish; writes docs/develop/cache-tests.*.
	@scripts/need.sh build test
	@scripts/need.sh caches || echo "going on with what is there" >&2
	$(CARGO) build --locked --profile demo
	loadtest/cache_suite.py $(TARGET)/demo/portcullis --out docs/develop/cache-tests.json $(CACHES)
	UPDATE_REFERENCE=1 $(CARGO) test --locked --test main -- --exact cache_suite::what_comes_of_the_public_tests_is_listed_and_explained

kills: ## Kill a gateway fifty times while its cache on disk is written to; nothing wrong may be found afterwards.
	@scripts/need.sh build test
	$(CARGO) test --locked --test main -- --exact disk::nothing_wrong_is_found_after_fifty_kills --ignored

attack: release ## Attack a gateway on loopback with all that one address can get; fails if a bound is passed.
	loadtest/attack.py $(BINARY)

# On stable Rust: what libFuzzer needs of the compiler are two flags of LLVM's. A target folder of its own, for they are for everything.
FUZZ_FLAGS = --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
TARGET_TO_FUZZ = $(or $(FUZZ),head)

fuzz: ## Look for bytes that break a promise of fuzz/targets.rs: FUZZ=head, answer, chunked, proxy, hello, yaml or dns, for SECONDS=60.
	@scripts/need.sh build
	@mkdir -p $(TARGET)/fuzz/corpus/$(TARGET_TO_FUZZ)
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) run --locked --release --target-dir $(abspath $(TARGET))/fuzz \
	    --target $$(rustc -vV | sed -n 's/^host: //p') --bin $(TARGET_TO_FUZZ) -- -max_total_time=$(or $(SECONDS),60) -max_len=4096 \
	    -print_final_stats=1 $(abspath $(TARGET))/fuzz/corpus/$(TARGET_TO_FUZZ) seeds/$(TARGET_TO_FUZZ)

# The unit goes where systemd looks under this prefix; an existing configuration is never touched.
install: ## Install the binary, the systemd unit and an example configuration (PREFIX, DESTDIR; after `make release`).
	@test -x $(BINARY) || { echo "$(BINARY) is not there: run \`make release\` first" >&2; exit 1; }
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/portcullis
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/portcullis.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/portcullis.service
	install -D -m 0644 systemd/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/portcullis.conf
	install -d -m 0755 $(DESTDIR)/etc/portcullis
	test -e $(DESTDIR)/etc/portcullis/portcullis.yaml || \
	    install -m 0644 conf/portcullis.yaml $(DESTDIR)/etc/portcullis/portcullis.yaml

clean: ## Remove everything that was built.
	$(CARGO) clean
