//! `rbuild check`: says what is wrong with a Containerfile and touches nothing.

mod shell;

use shell::Rbuild;

#[test]
fn a_good_file_passes_without_a_store_or_a_base() {
    let rbuild = Rbuild::new();
    let context =
        rbuild.context("FROM no-such-base AS one\nRUN make\nFROM one\nCOPY --from=one /a /b\n", &[]);
    let file = context.join("Containerfile");
    rbuild.run(&["check", "-f", file.to_str().unwrap()]).expect_ok();
    assert!(!rbuild.root().exists(), "nothing is built, nothing is kept");
}

#[test]
fn a_bad_file_is_refused_with_the_place() {
    let rbuild = Rbuild::new();
    for (containerfile, said) in [
        ("FROM scratch\nCOPPY a /\n", ["Containerfile:2", "COPY"]),
        ("FROM scratch\nRUN <<EOF\nnever ended\n", ["Containerfile:2", "EOF"]),
        ("RUN true\n", ["Containerfile:1", "FROM"]),
    ] {
        let file = rbuild.context(containerfile, &[]).join("Containerfile");
        rbuild.run(&["check", "-f", file.to_str().unwrap()]).expect_error(&said);
    }
}
