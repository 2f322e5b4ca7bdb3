//! Chance that can be repeated: every draw is a function of (seed, purpose, name).

use std::hash::{BuildHasher, Hasher};

/// What a draw is for; draws of different purposes are independent.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Fate = 1,
    Jitter = 2,
    GarbageKind = 3,
    BalanceClass = 4,
    Balance = 5,
    Barred = 6,
    Unknown = 7,
    TopUpPhase = 8,
    Pending = 9,
    CallbackLost = 10,
    CallbackTwice = 11,
    CallbackForged = 12,
    CallbackContrary = 13,
    CallbackEarly = 14,
}

/// The source of all draws of one mock carrier.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    seed: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed: mix(seed) }
    }

    /// The name of a key as a number, to be drawn for several purposes without reading the text again.
    pub(super) fn name(text: &str) -> u64 {
        fold(text.as_bytes())
    }

    /// 64 even bits for this purpose and name.
    pub(super) fn roll(self, purpose: Purpose, name: u64) -> u64 {
        mix(self.seed ^ mix(name ^ ((purpose as u64) << 56)))
    }

    /// 0 to 999,999.
    pub(super) fn ppm(self, purpose: Purpose, name: u64) -> u32 {
        u32::try_from(self.roll(purpose, name) % 1_000_000).unwrap_or(0)
    }
}

/// A quick hash for our own tables. Not safe against chosen keys; a mock has no enemies, only load.
#[derive(Clone, Copy, Default)]
pub(super) struct Quick;

impl BuildHasher for Quick {
    type Hasher = QuickHasher;
    fn build_hasher(&self) -> QuickHasher {
        QuickHasher(0)
    }
}

pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0 ^ fold(bytes));
    }
    fn write_u8(&mut self, byte: u8) {
        self.0 ^= u64::from(byte);
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

fn fold(bytes: &[u8]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0_u8; 8];
        eight.copy_from_slice(word);
        state = mix(state ^ u64::from_le_bytes(eight));
    }
    let mut last = [0_u8; 8];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    mix(state ^ u64::from_le_bytes(last))
}

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_depend_on_seed_purpose_and_name() {
        let draw = Draw::new(7);
        let hits = (0..100_000_u64)
            .filter(|n| draw.ppm(Purpose::Fate, Draw::name(&format!("key-{n}"))) < 100_000)
            .count();
        assert!((9_500..10_500).contains(&hits), "{hits} of 100,000 draws fell below 10 %");
        let name = Draw::name("key-1");
        assert_ne!(draw.roll(Purpose::Fate, name), draw.roll(Purpose::Jitter, name));
        assert_ne!(draw.roll(Purpose::Fate, name), Draw::new(8).roll(Purpose::Fate, name));
        assert_eq!(draw.roll(Purpose::Fate, name), Draw::new(7).roll(Purpose::Fate, name));
    }
}
