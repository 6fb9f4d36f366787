//! Moments at which the power may go, and what the disk then holds.
//!
//! ```text
//! writes │flush│ w1 w2 w3 ✂ w4 │flush│ …
//! └ all there ┘└ any of them ┘└ none ┘
//! ```
//!
//! May touch: memory. Knows nothing of rbuild and of file systems.

use super::recorder::Event;

/// The parts in which a disk writes: a sector is there or not.
const SECTOR_BYTES: usize = 512;

/// A moment, and which of the writes since the last flush reached the disk.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// The events before this one have been told to the disk.
    pub(crate) at: usize,
    /// How many of 100 unflushed writes are there.
    kept_of_100: u64,
    /// One of them only in part.
    torn: bool,
    seed: u64,
}

/// Which cuts to try: `wanted` of them, in order of time.
pub(crate) fn choose(events: &[Event], marks: &[usize], wanted: usize, seed: u64) -> Vec<Cut> {
    let mut random = Random(seed);
    let flushes: Vec<usize> = (0..events.len()).filter(|n| matches!(events[*n], Event::Flush)).collect();
    let mut cuts = Vec::new();
    // As a command says that it is done, with nothing on the disk that it did not flush; and with a half of it.
    for &at in marks {
        cuts.extend([0, 50].map(|kept_of_100| Cut { at, kept_of_100, torn: false, seed: random.next() }));
    }
    // Behind a flush, before anything else.
    let boundaries = wanted / 3;
    let step = flushes.len().div_ceil(boundaries).max(1);
    for flush in flushes.iter().step_by(step) {
        cuts.push(Cut { at: flush + 1, kept_of_100: 0, torn: false, seed: 0 });
    }
    // The rest spread evenly over all that was written, each at another place of its stretch.
    let rest = wanted.saturating_sub(cuts.len());
    for number in 0..rest {
        let stretch = events.len() / rest.max(1);
        let at = number * events.len() / rest + random.below(stretch.max(1));
        let kept_of_100 = [20, 50, 80, 100][random.below(4)];
        cuts.push(Cut { at, kept_of_100, torn: number % 3 == 0, seed: random.next() });
    }
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// The disk as it was at the last flush before a moment; moved on from cut to cut.
#[derive(Debug)]
pub(crate) struct Durable {
    content: Vec<u8>,
    applied: usize,
}

impl Durable {
    pub(crate) fn new(content: Vec<u8>) -> Self {
        Self { content, applied: 0 }
    }

    /// What the disk holds after a cut. Cuts must come in order of time.
    pub(crate) fn image(&mut self, events: &[Event], cut: &Cut) -> Vec<u8> {
        let before = &events[..cut.at];
        let flushed =
            before.iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |last| last + 1);
        for event in &events[self.applied..flushed.max(self.applied)] {
            write(&mut self.content, event, usize::MAX);
        }
        self.applied = self.applied.max(flushed);
        let mut random = Random(cut.seed);
        let kept: Vec<&Event> =
            before[flushed..].iter().filter(|_| (random.below(100) as u64) < cut.kept_of_100).collect();
        let torn = cut.torn.then(|| random.below(kept.len().max(1)));
        let mut image = self.content.clone();
        for (number, event) in kept.into_iter().enumerate() {
            let sectors = if torn == Some(number) { random.below(8) } else { usize::MAX };
            write(&mut image, event, sectors.saturating_mul(SECTOR_BYTES));
        }
        image
    }
}

/// Writes as much of an event as there is, up to so many bytes of its last 4 KiB.
fn write(content: &mut [u8], event: &Event, most_of_last: usize) {
    let Event::Write { offset, data } = event else { return };
    let whole = data.len().saturating_sub(1) / 4096 * 4096;
    let length = data.len().min(whole.saturating_add(most_of_last));
    content[*offset..offset + length].copy_from_slice(&data[..length]);
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 |= 1;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end
    }
}
