# Everything is a cargo command or a script; these are their short names.

# Our own crate unoptimised, and only what changed of it, on optimised dependencies.
QUICK = --release --config 'profile.release.package.flowguard.opt-level=0' \
	--config 'profile.release.incremental=true'

.PHONY: help test soak quick lint fmt demo bench

help:
	@echo "make test   everything, on real Kafka and MinIO; installs them first"
	@echo "make soak   what kills the program, for hours instead of minutes"
	@echo "make quick  the tests that need nothing installed; says what it skips"
	@echo "make lint   format and clippy, warnings as errors"
	@echo "make fmt    format the code"
	@echo "make demo   the demo, from scratch"
	@echo "make bench  rows per second"

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
