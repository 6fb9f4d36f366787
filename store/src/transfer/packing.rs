//! Packed and unpacked: the outside of an archive as it comes in, a layer as it goes out.
//!
//! May touch: the stream given, the store through its methods. Knows nothing of images.

use std::io::{self, Read, Write};

use super::TransferError;
use crate::Store;
use crate::digest::{BlobId, DiffId};
use crate::oci::media_type;

/// A layer as it leaves in an OCI image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    pub blob: BlobId,
    pub size_bytes: u64,
}

/// Whether a file that starts so is compressed.
pub(super) fn is_packed(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"];
    magics.iter().any(|magic| start.starts_with(magic))
}

/// The gzip form of a layer: the one that was kept, else made now and remembered.
pub(super) fn gzip(store: &Store, layer: DiffId) -> Result<Packed, TransferError> {
    for (blob, size_bytes, media_type) in store.blobs().of_layer(layer)? {
        if media_type.as_deref() == Some(media_type::LAYER_GZIP) {
            return Ok(Packed { blob, size_bytes });
        }
    }
    let write = |source| TransferError::Write { what: format!("the packed form of layer {layer}"), source };
    let (layers, blobs) = (store.layers(), store.blobs());
    let mut tar = layers.tar(layer)?;
    let mut writer = blobs.writer()?;
    compress(&mut *tar, &mut writer).map_err(write)?;
    let (blob, size_bytes) = writer.finish(None)?;
    blobs.describe(blob, Some(media_type::LAYER_GZIP), Some(layer))?;
    Ok(Packed { blob, size_bytes })
}

/// Reads a stream of any compression, or of none.
pub(super) fn unpack(stream: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    const LOOK_BYTES: usize = 6;
    let mut input = io::BufReader::with_capacity(256 << 10, stream);
    let mut start = Vec::new();
    Read::by_ref(&mut input).take(LOOK_BYTES as u64).read_to_end(&mut start)?;
    let whole = io::Cursor::new(start.clone()).chain(input);
    Ok(match &start[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(whole, true)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        _ => Box::new(whole),
    })
}

fn compress(tar: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(output, flate2::Compression::new(6));
    io::copy(tar, &mut encoder)?;
    encoder.finish().map(drop)
}
