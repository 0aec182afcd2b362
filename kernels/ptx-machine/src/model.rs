//! Estimates how long a launch would take on a card: the time for which the busiest part of the card works. Latencies and caches
//! are left out, so the estimate is for finding what bounds a kernel, and for ratios.
//!
//! The rates are from the makers' data sheets. No estimate was compared with a card.

use crate::counters::Counters;
use crate::lower::Kernel;

/// The multiprocessors of a card, its clock and its rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// The card's name.
    pub name: &'static str,
    /// Number of multiprocessors.
    pub multiprocessors: usize,
    /// Clocks a second.
    pub clock: f64,
    /// Multiply-adds of f32 that a multiprocessor does in a clock.
    pub f32_a_clock: f64,
    /// Multiply-adds of bf16, with sums in f32, that the tensor cores of a multiprocessor do in a clock.
    pub bf16_a_clock: f64,
    /// Bytes a second that the card's memory moves.
    pub memory: f64,
}

/// Common cards, with the rates from their data sheets.
pub const CARDS: [Card; 4] = [
    card("RTX 3090", 82, 1.695e9, 128.0, 256.0, 936e9),
    card("RTX 4090", 128, 2.52e9, 128.0, 256.0, 1008e9),
    card("A100 40 GB", 108, 1.41e9, 64.0, 1024.0, 1555e9),
    card("H100 SXM", 132, 1.83e9, 128.0, 2048.0, 3350e9),
];

const fn card(
    name: &'static str,
    multiprocessors: usize,
    clock: f64,
    f32_a_clock: f64,
    bf16_a_clock: f64,
    memory: f64,
) -> Card {
    Card { name, multiprocessors, clock, f32_a_clock, bf16_a_clock, memory }
}

/// Warp instructions that a multiprocessor starts in a clock.
const ISSUED_A_CLOCK: f64 = 4.0;
/// Functions (powers, roots, reciprocals) that a multiprocessor computes in a clock.
const FUNCTIONS_A_CLOCK: f64 = 16.0;
/// Multiply-adds of one m16n8k16 product.
const MULTIPLY_ADDS_OF_AN_MMA: f64 = 16.0 * 8.0 * 16.0;

/// How long a launch would take on a card, and the part of the card that decides this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The time in seconds.
    pub seconds: f64,
    /// The part of the card that needs this long.
    pub bound: Part,
}

/// A part of a card that work waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Starting instructions.
    Issue,
    /// Multiply-adds of f32.
    F32,
    /// Matrix products.
    Tensor,
    /// Powers, roots and reciprocals.
    Functions,
    /// Wavefronts of the shared memory.
    Shared,
    /// The card's memory.
    Memory,
}

const PARTS_OF_A_MULTIPROCESSOR: [Part; 5] = [Part::Issue, Part::F32, Part::Tensor, Part::Functions, Part::Shared];

/// For each part of a multiprocessor, the number of clocks for which it works.
type ClocksOfParts = [f64; PARTS_OF_A_MULTIPROCESSOR.len()];

impl Kernel {
    /// Estimates how long a launch would take on a card. `blocks` are the counters of its blocks, in launch order.
    pub fn estimate(&self, blocks: &[Counters], card: &Card) -> Estimate {
        // each block goes to the multiprocessor with the least work so far
        let mut multiprocessors = vec![[0.0; PARTS_OF_A_MULTIPROCESSOR.len()]; card.multiprocessors];
        let busiest = |clocks: &ClocksOfParts| clocks.iter().fold(0.0f64, |most, part| most.max(*part));
        for block in blocks {
            let next = multiprocessors
                .iter_mut()
                .min_by(|a, b| busiest(a).total_cmp(&busiest(b)))
                .expect("a card has multiprocessors");
            for (sum, part) in next.iter_mut().zip(self.clocks(block, card)) {
                *sum += part;
            }
        }
        let memory = Counters::of_all(blocks).touched_bytes();
        let mut longest = Estimate { seconds: memory as f64 / card.memory, bound: Part::Memory };
        for clocks in &multiprocessors {
            for (clocks, part) in clocks.iter().zip(PARTS_OF_A_MULTIPROCESSOR) {
                let seconds = clocks / card.clock;
                if seconds > longest.seconds {
                    longest = Estimate { seconds, bound: part };
                }
            }
        }
        longest
    }

    fn clocks(&self, block: &Counters, card: &Card) -> ClocksOfParts {
        let [mut issue, mut f32s, mut tensor, mut functions, mut shared] = [0.0; 5];
        for (opcode, counts) in self.opcodes.iter().zip(&block.instructions) {
            let n = counts.executions as f64;
            issue += n * weight(opcode) / ISSUED_A_CLOCK;
            shared += counts.wavefronts as f64;
            match opcode.split('.').next().unwrap_or_default() {
                "fma" | "add" | "mul" | "sub" if opcode.ends_with("f32") => f32s += n * 32.0 / card.f32_a_clock,
                "mma" => tensor += n * MULTIPLY_ADDS_OF_AN_MMA / card.bf16_a_clock,
                "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" => {
                    functions += n * 32.0 / FUNCTIONS_A_CLOCK
                }
                _ => {}
            }
        }
        [issue, f32s, tensor, functions, shared]
    }
}

/// Returns how many machine instructions an instruction of PTX becomes, on average.
fn weight(opcode: &str) -> f64 {
    let kind = opcode.rsplit('.').next().unwrap_or_default();
    let is_wide = matches!(kind, "s64" | "u64" | "b64");
    match opcode.split('.').next().unwrap_or_default() {
        "mov" | "cvta" => 0.0,
        "ld" if opcode.starts_with("ld.param") => 0.0,
        "cvt" => 0.3,
        "div" => 10.0,
        "rcp" | "sqrt" if opcode.contains(".rn.") => 8.0,
        "add" | "sub" | "and" | "or" | "shl" | "shr" | "mul" | "mad" if is_wide => 0.6,
        _ => 1.0,
    }
}
