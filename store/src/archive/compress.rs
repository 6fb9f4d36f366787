//! Compression of layers: told by magic bytes on reading, deterministic on writing.

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

/// Tells the compression by magic bytes and reads what is inside.
pub fn reader(
    packed: Box<dyn std::io::Read + Send>,
) -> std::io::Result<(Compression, Box<dyn std::io::Read + Send>)> {
    let _ = packed;
    todo!()
}
