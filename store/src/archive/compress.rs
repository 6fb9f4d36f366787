//! Compression of layers: told by magic bytes on reading, deterministic on writing.
//!
//! ```text
//! reading thread   512 KiB ─→ 512 KiB ─→ …        one job each, a bounded queue
//! workers          gzip member │ gzip member │ …  each from its own input alone
//! reading thread   members in order ─→ out
//! ```
//! What is written depends on the input and the level only, never on how many threads there were: a gzip
//! member and a zstd job begin at fixed places of the input.
//!
//! Why several gzip members (RFC 1952, 2.2) and not one: only then can a whole-buffer compressor be used.
//! The tar of Debian bookworm (135 MB), two threads, sizes and time of one core:
//!
//! | | bytes | MB/s |
//! |---|---|---|
//! | gzip -6, pigz -6 | 43.44 M, 43.33 M | 28, 32 |
//! | one member: zlib-rs 6, 1 MiB blocks, 32 KiB of history | 44.62 M | 79 |
//! | members: libdeflate 5, 512 KiB (the default) | 43.00 M | 124 |
//! | members: libdeflate 6, 512 KiB | 42.73 M | 101 |
//! | zstd 3, jobs of 2 MiB (the default) | 37.70 M | 271 |
//!
//! Every eStargz layer is a gzip of many members, so whatever pulls images reads them.
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
const MEMBER_BYTES: usize = 512 << 10;
/// Input of one zstd job; zstd's own choice, four windows, would need 8 MiB and more for each worker.
const ZSTD_JOB_BYTES: u32 = 2 << 20;
/// A gzip worker holds about 2 MiB, a zstd worker about 8 MiB.
const GZIP_THREADS: usize = 16;
const ZSTD_THREADS: usize = 4;

/// How layers are packed when they go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    compression: Compression,
    level: i32,
}

/// A form or a level that layers are not packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPacking {
    #[error("layers are not written as xz or bzip2")]
    ReadOnly,
    #[error("there is no compression level {level} (there are 1 to {most})")]
    Level { level: i32, most: i32 },
    #[error("without compression there is no level")]
    NoLevel,
}

impl Packing {
    pub const NONE: Self = Self { compression: Compression::None, level: 0 };
    /// Smaller than gzip's own default level; see above.
    pub const GZIP: Self = Self { compression: Compression::Gzip, level: 5 };
    pub const ZSTD: Self = Self { compression: Compression::Zstd, level: 3 };

    /// A form with a level of its own scale (gzip 1 to 12, zstd 1 to 20), or its usual one.
    pub fn new(compression: Compression, level: Option<i32>) -> Result<Self, BadPacking> {
        let (usual, most) = match compression {
            Compression::None if level.is_some() => return Err(BadPacking::NoLevel),
            Compression::None => return Ok(Self::NONE),
            Compression::Gzip => (Self::GZIP, 12),
            Compression::Zstd => (Self::ZSTD, 20),
            Compression::Xz | Compression::Bzip2 => return Err(BadPacking::ReadOnly),
        };
        match level {
            Some(level) if !(1..=most).contains(&level) => Err(BadPacking::Level { level, most }),
            level => Ok(Self { level: level.unwrap_or(usual.level), ..usual }),
        }
    }

    pub fn compression(self) -> Compression {
        self.compression
    }
}

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

/// Packs all of `plain`.
pub fn compress(plain: &mut dyn Read, packed: &mut dyn Write, packing: Packing) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    compress_with(plain, packed, packing, threads)
}

fn compress_with(
    plain: &mut dyn Read,
    packed: &mut dyn Write,
    packing: Packing,
    threads: usize,
) -> io::Result<()> {
    match packing.compression {
        Compression::Gzip => compress_gzip(plain, packed, packing.level, threads.min(GZIP_THREADS)),
        Compression::Zstd => compress_zstd(plain, packed, packing.level, threads.min(ZSTD_THREADS)),
        _ => io::copy(plain, packed).map(drop),
    }
}

fn compress_zstd(plain: &mut dyn Read, packed: &mut dyn Write, level: i32, threads: usize) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(packed, level)?;
    encoder.include_checksum(true)?;
    // The output of one worker and of many is the same; without workers it differs.
    encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB_BYTES))?;
    io::copy(plain, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

type Member = io::Result<Vec<u8>>;

fn compress_gzip(plain: &mut dyn Read, packed: &mut dyn Write, level: i32, count: usize) -> io::Result<()> {
    let level = libdeflater::CompressionLvl::new(level)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 1 to 12"))?;
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

    const PACKINGS: [Packing; 3] = [Packing::NONE, Packing::GZIP, Packing::ZSTD];

    fn packed(plain: &[u8], packing: Packing, threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        compress_with(&mut &plain[..], &mut out, packing, threads).unwrap();
        out
    }

    fn unpacked(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut reader = decompress(bytes)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((reader.compression, out))
    }

    #[test]
    fn what_is_packed_comes_back_and_is_the_same_with_any_number_of_threads() {
        let job = usize::try_from(ZSTD_JOB_BYTES).unwrap();
        for size in [0, 1, 511, MEMBER_BYTES, 3 * MEMBER_BYTES + 17, 3 * job + 1] {
            let plain = sample(size);
            for packing in PACKINGS {
                let once = packed(&plain, packing, 1);
                let expected = (packing.compression, plain.clone());
                assert!(unpacked(&once).unwrap() == expected, "{packing:?} {size}");
                for threads in [2, 3, 16, 100] {
                    assert!(packed(&plain, packing, threads) == once, "{packing:?} {size} {threads}");
                }
            }
        }
    }

    /// A digest that moves when a library's output does: what was pushed would no longer be what is saved.
    #[test]
    fn the_packed_bytes_are_these_on_every_machine() {
        let plain = sample(3 * MEMBER_BYTES);
        let digests = PACKINGS.map(|packing| crate::Digest::of(&packed(&plain, packing, 2)).hex());
        let starts = digests.each_ref().map(|hex| &hex[..12]);
        assert_eq!(starts, ["044ec4a8df30", "a8e8f214cd82", "13f5f6ab1acc"]);
    }

    /// Reads in pieces of other sizes than the blocks.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.1);
            self.1 = self.1 % 70_000 + 7;
            (&mut self.0).take(count as u64).read(buffer)
        }
    }

    #[test]
    fn the_bytes_do_not_depend_on_how_the_input_comes() {
        let plain = sample(2 * MEMBER_BYTES + 5);
        for packing in PACKINGS {
            let mut out = Vec::new();
            compress_with(&mut Dribble(&plain, 1), &mut out, packing, 2).unwrap();
            assert!(out == packed(&plain, packing, 2), "{packing:?}");
        }
    }

    #[test]
    fn gzip_members_hold_no_name_and_no_time() {
        let plain = sample(2 * MEMBER_BYTES + 5);
        let gzip = packed(&plain, Packing::GZIP, 2);
        let mut decoder = flate2::read::MultiGzDecoder::new(&gzip[..]);
        let mut out = Vec::new();
        decoder.read_to_end(&mut out).unwrap();
        assert!(out == plain);
        // Flags and time in a member's head (RFC 1952, 2.3).
        assert_eq!(gzip[3..8], [0; 5]);
    }

    #[test]
    fn only_levels_that_there_are_are_taken() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            assert!(Packing::new(compression, None).is_ok());
            assert!(Packing::new(compression, Some(9)).is_ok());
            for level in [0, -1, 21, i32::MAX] {
                assert!(matches!(Packing::new(compression, Some(level)), Err(BadPacking::Level { .. })));
            }
        }
        assert_eq!(Packing::new(Compression::None, Some(1)), Err(BadPacking::NoLevel));
        assert_eq!(Packing::new(Compression::Xz, None), Err(BadPacking::ReadOnly));
    }

    #[test]
    fn a_cut_or_extended_stream_is_an_error() {
        let plain = sample(300_000);
        for packing in [Packing::GZIP, Packing::ZSTD] {
            let whole = packed(&plain, packing, 2);
            for part in 1..64 {
                let cut = &whole[..whole.len() * part / 64];
                if cut.len() >= 6 {
                    assert!(unpacked(cut).is_err(), "{packing:?} cut at {part}/64");
                }
            }
            let longer = [&whole[..], b"garbage after the end"].concat();
            assert!(unpacked(&longer).is_err(), "{packing:?} with garbage");
        }
    }

    #[test]
    fn streams_one_behind_another_are_one_and_what_may_be_skipped_is() {
        let (one, two) = (sample(70_000), sample(10));
        let plain = [&one[..], &two].concat();
        let gzip = |part: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |part: &[u8]| zstd::encode_all(part, 1).unwrap();
        let xz = |part: &[u8]| {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = |part: &[u8]| {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        };
        // As zstd:chunked and eStargz have them before, between and behind.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (form, stream) in [
            (Compression::Gzip, [gzip(&one), gzip(&[]), gzip(&two)].concat()),
            (Compression::Zstd, [&skipped[..], &zstd(&one), &skipped, &zstd(&two), &skipped].concat()),
            (Compression::Xz, [xz(&one), xz(&two)].concat()),
            (Compression::Bzip2, [bzip2(&one), bzip2(&two)].concat()),
        ] {
            assert!(unpacked(&stream).unwrap() == (form, plain.clone()), "{form:?}");
            assert!(unpacked(&stream[..stream.len() - 1]).is_err(), "{form:?} cut");
        }
    }

    #[test]
    fn a_zstd_window_past_the_limit_is_refused() {
        // A frame header that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2), and an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(unpacked(&frame).is_err());
    }
}
