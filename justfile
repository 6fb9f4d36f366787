# Lists the recipes
default:
    @just --list

# What CI asks of the text: form, lints, documentation
check:
    cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The tests that this machine allows
test:
    cargo test --workspace

# All tests, with the peers; as root
test-all:
    ./.ci/test

# Builds and runs every example
examples:
    ./.ci/examples

# Builds the recorded cases and prints the counts
conformance:
    ./.ci/conformance

# Measures rbuild and its peers
bench *options:
    cargo build --release && benches/peers {{options}}

# Licences, advisories and sources of the dependencies
deny:
    cargo deny check

# Everything that CI runs
ci:
    ./.ci/run
