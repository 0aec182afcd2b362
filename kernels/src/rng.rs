//! Philox 4x32-10: random words as a function of a key and a counter. Source: Salmon et al. 2011, "Parallel random numbers: as
//! easy as 1, 2, 3".
//!
//! No code draws from a stream. Code names the random words that it needs by key and counter, so results do not depend on the order
//! of calls or on threads.

/// The key of the random words of one mask or one initialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// Makes a key from the run's seed, the optimiser step and the place, e.g. the index of a module.
    pub fn new(seed: u64, step: u64, place: u64) -> Key {
        let words = philox(
            [seed as u32, (seed >> 32) as u32],
            [step as u32, (step >> 32) as u32, place as u32, (place >> 32) as u32],
        );
        Key(u64::from(words[0]) | u64::from(words[1]) << 32)
    }

    /// Returns the key as the CUDA kernels expect it: the low half is the first word.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Returns the four words at the counter `high * 2^64 + low`.
    pub fn words(self, high: u64, low: u64) -> [u32; 4] {
        philox(
            [self.0 as u32, (self.0 >> 32) as u32],
            [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32],
        )
    }

    /// Returns the words at the counters `low .. low + N`, all with the same `high`. The loops run over the counters, so that they
    /// become vector code.
    #[inline(always)]
    pub(crate) fn words_of<const N: usize>(self, high: u64, low: u64) -> [[u32; 4]; N] {
        let (mut lows, mut highs) = ([low; N], [0; N]);
        for i in 0..N {
            lows[i] += i as u64;
            highs[i] = lows[i] >> 32;
        }
        philox_in_lanes([self.0 as u32, (self.0 >> 32) as u32], [lows, highs, [high; N], [high >> 32; N]])
    }

    /// Returns random number `index` of this key. The numbers are uniform in [0, 1), with 24 bits.
    pub fn unit(self, index: u64) -> f32 {
        (self.words(0, index / 4)[(index % 4) as usize] >> 8) as f32 / (1u32 << 24) as f32
    }
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [words] = philox_in_lanes(key, counter.map(|word| [u64::from(word)]));
    words
}

/// Computes the words at `N` counters at once. Each 32-bit word is the low half of a u64 whose high half is ignored. So a product
/// of two words is one instruction per vector, and nothing is packed or unpacked between the rounds.
#[inline(always)]
fn philox_in_lanes<const N: usize>(mut key: [u32; 2], counters: [[u64; N]; 4]) -> [[u32; 4]; N] {
    const LOW: u64 = u32::MAX as u64;
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        for i in 0..N {
            let a = u64::from(MULTIPLIERS[0]) * (c0[i] & LOW);
            let b = u64::from(MULTIPLIERS[1]) * (c2[i] & LOW);
            (c0[i], c1[i]) = ((b >> 32) ^ c1[i] ^ u64::from(key[0]), b);
            (c2[i], c3[i]) = ((a >> 32) ^ c3[i] ^ u64::from(key[1]), a);
        }
    }
    let mut pairs = [[0u64; 2]; N];
    for i in 0..N {
        pairs[i] = [(c0[i] & LOW) | c1[i] << 32, (c2[i] & LOW) | c3[i] << 32].map(u64::to_le);
    }
    bytemuck::cast(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_counters_at_once_give_the_same_words() {
        let key = Key::new(7, 8, 9);
        let low = u64::from(u32::MAX) - 5; // the counters carry from the lowest word into the next one
        for (i, words) in key.words_of::<16>(3, low).into_iter().enumerate() {
            assert_eq!(words, key.words(3, low + i as u64));
        }
    }

    /// Known answers published with the Random123 library.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 2], [!0; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
