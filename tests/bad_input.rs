//! Bad input gets one clear error, a status that is not 0, and leaves the store as it was.
mod shell;

use shell::{Rbuild, needs};

#[test]
fn an_unknown_image_is_named_in_the_error() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    rbuild.build("FROM nowhere\n", &[]).expect_error(&["nowhere"]);
}
