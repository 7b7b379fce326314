# Everything is a cargo command or a script; these are their short names.

# Our own crate unoptimised, and only what changed of it, on optimised dependencies.
QUICK = --release --config 'profile.release.package.flowguard.opt-level=0' \
	--config 'profile.release.incremental=true'

.PHONY: help test soak quick lint fmt demo bench dist

help:
	@echo "make test   everything, on real Kafka and MinIO; installs them first"
	@echo "make soak   what kills the program, for hours instead of minutes"
	@echo "make quick  the tests that need nothing installed; says what it skips"
	@echo "make lint   format and clippy, warnings as errors"
	@echo "make fmt    format the code"
	@echo "make demo   the demo, from scratch"
	@echo "make bench  rows per second"
	@echo "make dist   one binary without symbols, and what it needs to run"

test:
	.ci/test

soak:
	tests/soak

quick:
	cargo test --quiet $(QUICK)

lint:
	.ci/test --lint

fmt:
	cargo fmt

demo:
	cargo run --release -- demo --fresh

bench:
	cargo bench

dist:
	cargo build --release --locked
	mkdir -p dist
	strip -o dist/flowguard "$${CARGO_TARGET_DIR:-target}"/release/flowguard
	@ls -lh dist/flowguard | awk '{print "dist/flowguard: " $$5}'
	@echo "needs $$(readelf -d dist/flowguard | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | paste -sd ' ')"
	@echo "and $$(readelf -V dist/flowguard | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1) or newer"
