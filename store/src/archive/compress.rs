//! Compression of layers: told by magic bytes on reading, deterministic on writing.
//!
//! Gzip is written as members of 1 MiB of input each, packed side by side and put in order: the bytes
//! depend on the input and the level only, never on how many threads there were.
//!
//! May touch: the streams given. Knows nothing of tar.

use std::collections::VecDeque;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// Tells the form by the first bytes of a stream; what is unknown is taken as not packed.
    pub fn detect(head: &[u8]) -> Self {
        const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A zstd stream may start with a skippable frame (RFC 8878, 3.1.2).
            [0x50..=0x5f, rest @ ..] if rest.starts_with(&SKIPPABLE) => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

const BUFFER_BYTES: usize = 256 << 10;
/// Windows of zstd frames past 128 MiB are refused.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Dictionaries of xz streams past this are refused.
const XZ_MEMORY_KIB: u32 = 192 << 10;
/// More than this many bytes out of one byte in, past the first GiB, is a bomb.
const RATIO_LIMIT: u64 = 1100;
const RATIO_FREE_BYTES: u64 = 1 << 30;
/// Input of one gzip member.
const MEMBER_BYTES: usize = 1 << 20;

/// A stream, unpacked while it is read.
pub struct Decompressed<'r> {
    pub compression: Compression,
    inner: Box<dyn Read + Send + 'r>,
    came_in: Arc<AtomicU64>,
    went_out: u64,
}

impl std::fmt::Debug for Decompressed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressed").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// Unpacks `packed`, whatever its form.
pub fn decompress<'r>(mut packed: impl Read + Send + 'r) -> io::Result<Decompressed<'r>> {
    let mut head = Vec::with_capacity(6);
    (&mut packed).take(6).read_to_end(&mut head)?;
    let compression = Compression::detect(&head);
    let came_in = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: Cursor::new(head).chain(packed), count: Arc::clone(&came_in) };
    let inner: Box<dyn Read + Send + 'r> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
            Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(counted)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
            Box::new(lzma_rust2::XzReader::new_mem_limit(buffered, true, XZ_MEMORY_KIB))
        }
        Compression::Bzip2 => {
            let buffered = BufReader::with_capacity(BUFFER_BYTES, counted);
            Box::new(bzip2::bufread::MultiBzDecoder::new(buffered))
        }
    };
    Ok(Decompressed { compression, inner, came_in, went_out: 0 })
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.went_out += count as u64;
        let came_in = self.came_in.load(Ordering::Relaxed);
        if self.went_out > RATIO_FREE_BYTES && self.went_out / RATIO_LIMIT > came_in {
            let what = "it unpacks to more than a thousand times its size";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(count)
    }
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Packs all of `plain`; `level` is the format's own scale.
pub fn compress(
    plain: &mut dyn Read,
    packed: &mut dyn Write,
    compression: Compression,
    level: i32,
) -> io::Result<()> {
    match compression {
        Compression::None => io::copy(plain, packed).map(drop),
        Compression::Gzip => compress_gzip(plain, packed, level),
        Compression::Zstd => compress_zstd(plain, packed, level),
        Compression::Xz | Compression::Bzip2 => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "layers are not written as xz or bzip2"))
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

fn compress_zstd(plain: &mut dyn Read, packed: &mut dyn Write, level: i32) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(packed, level)?;
    encoder.include_checksum(true)?;
    // The output of one worker and of many is the same; without workers it differs.
    encoder.multithread(u32::try_from(threads()).unwrap_or(1))?;
    io::copy(plain, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

type Member = io::Result<Vec<u8>>;

fn compress_gzip(plain: &mut dyn Read, packed: &mut dyn Write, level: i32) -> io::Result<()> {
    let level = libdeflater::CompressionLvl::new(level)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 1 to 12"))?;
    let count = threads();
    std::thread::scope(|scope| {
        let (jobs, queue) = crossbeam_channel::bounded::<(Vec<u8>, crossbeam_channel::Sender<Member>)>(count);
        for _ in 0..count {
            let queue = queue.clone();
            scope.spawn(move || {
                let mut compressor = libdeflater::Compressor::new(level);
                for (block, answer) in queue {
                    // Nobody waits for the answer when writing has failed already.
                    drop(answer.send(pack_member(&mut compressor, &block)));
                }
            });
        }
        drop(queue);
        let mut waiting: VecDeque<Receiver<Member>> = VecDeque::new();
        let mut first = true;
        loop {
            let mut block = Vec::with_capacity(MEMBER_BYTES);
            plain.take(MEMBER_BYTES as u64).read_to_end(&mut block)?;
            // Nothing at all still makes one (empty) member.
            if block.is_empty() && !first {
                break;
            }
            first = false;
            if waiting.len() > count {
                write_member(&mut waiting, packed)?;
            }
            let (answer, member) = crossbeam_channel::bounded(1);
            jobs.send((block, answer)).map_err(|_| io::Error::other("a packing thread is gone"))?;
            waiting.push_back(member);
        }
        while !waiting.is_empty() {
            write_member(&mut waiting, packed)?;
        }
        Ok(())
    })
}

fn pack_member(compressor: &mut libdeflater::Compressor, block: &[u8]) -> Member {
    let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
    let count = compressor.gzip_compress(block, &mut out).map_err(io::Error::other)?;
    out.truncate(count);
    Ok(out)
}

fn write_member(waiting: &mut VecDeque<Receiver<Member>>, packed: &mut dyn Write) -> io::Result<()> {
    let Some(member) = waiting.pop_front() else { return Ok(()) };
    let bytes = member.recv().map_err(|_| io::Error::other("a packing thread is gone"))??;
    packed.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| u8::try_from((i * i / 977) % 251).unwrap()).collect()
    }

    fn packed(plain: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        compress(&mut &plain[..], &mut out, compression, 3).unwrap();
        out
    }

    fn unpacked(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut reader = decompress(bytes)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((reader.compression, out))
    }

    #[test]
    fn what_is_packed_comes_back_and_is_the_same_each_time() {
        for size in [0, 1, 511, MEMBER_BYTES, 3 * MEMBER_BYTES + 17] {
            let plain = sample(size);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let once = packed(&plain, compression);
                assert_eq!(unpacked(&once).unwrap(), (compression, plain.clone()), "{compression:?} {size}");
                assert_eq!(packed(&plain, compression), once);
            }
        }
    }

    #[test]
    fn a_cut_or_extended_stream_is_an_error() {
        let plain = sample(300_000);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(&plain, compression);
            for part in 1..64 {
                let cut = &whole[..whole.len() * part / 64];
                if cut.len() >= 6 {
                    assert!(unpacked(cut).is_err(), "{compression:?} cut at {part}/64");
                }
            }
            let longer = [&whole[..], b"garbage after the end"].concat();
            assert!(unpacked(&longer).is_err(), "{compression:?} with garbage");
        }
    }

    #[test]
    fn a_zstd_window_past_the_limit_is_refused() {
        // A frame header that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2), and an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(unpacked(&frame).is_err());
    }
}
