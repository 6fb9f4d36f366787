//! Imports an archive into a store: `import_speed <store> <archive>`; prints seconds per part.

use std::path::Path;
use std::time::Instant;

use store::Store;
use store::layers::Expected;

#[expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for measuring by hand")]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let opened = Instant::now();
    let store = Store::open(Path::new(&arguments[1])).unwrap();
    let opened = opened.elapsed();
    let imported = Instant::now();
    let mut file = std::fs::File::open(&arguments[2]).unwrap();
    let layer = store.layers().import(&mut file, Expected::default(), false).unwrap().layer;
    let imported = imported.elapsed();
    let durable = Instant::now();
    store.make_durable().unwrap();
    let durable = durable.elapsed();
    let tar = Instant::now();
    std::io::copy(&mut store.layers().tar(layer.diff_id).unwrap(), &mut std::io::sink()).unwrap();
    println!(
        "open {:.6} import {:.3} durable {:.3} tar {:.3} ({} entries, {} bytes)",
        opened.as_secs_f64(),
        imported.as_secs_f64(),
        durable.as_secs_f64(),
        tar.elapsed().as_secs_f64(),
        layer.entry_count,
        layer.tar_size_bytes
    );
}
