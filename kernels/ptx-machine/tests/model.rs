//! Which part of a card the model names as the busiest, and the time that it estimates.

use crate::kernel::{Card, kernel};
use ptx_machine::{CARDS, Counters, Estimate, Launch, Module, Part};

/// Runs a launch of `blocks` blocks of 32 threads. Returns the estimate for the card `on`, and the counters of each block.
fn estimate(body: &str, blocks: u32, on: &ptx_machine::Card) -> (Estimate, Vec<Counters>) {
    let mut card = Card::new();
    card.settings.counts = true;
    card.settings.checks = Default::default();
    let to = card.memory.allocate_sparse(1 << 30).unwrap();
    let module = Module::load(&kernel(1, " .shared .align 16 .b8 tile[8192];", body), &card.memory).unwrap();
    let parameters = to.to_le_bytes();
    let launch = Launch { grid: [blocks, 1, 1], block: [32, 1, 1], dynamic_shared: 0, parameters: &parameters };
    let k = &module.kernels()[0];
    let outcome = k.launch(&card.memory, &launch, &card.settings).unwrap();
    (k.estimate(&outcome.blocks, on), outcome.blocks)
}

const A100: ptx_machine::Card = CARDS[2];

/// Returns a body that runs an instruction 64 times in each of `times` rounds of a loop.
fn often(what: &str, times: u32) -> String {
    format!(
        " mov.u32 %r2, 0; mov.u64 %rd5, tile; mul.wide.u32 %rd6, %r0, 128; add.s64 %rd5, %rd5, %rd6;\nAGAIN: {}",
        what.repeat(64)
    ) + &format!("\n add.s32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, {times}; @%p0 bra AGAIN;")
}

#[test]
fn the_busiest_part_is_named() {
    for (what, bound) in [
        // a multiprocessor of this card does two warps' multiply-adds in a clock, but starts four warp instructions
        ("fma.rn.f32 %f0, %f0, %f1, %f1; ", Part::F32),
        ("ex2.approx.ftz.f32 %f0, %f0; ", Part::Functions),
        ("st.shared.u32 [%rd5], %r0; ", Part::Shared),
        ("xor.b32 %r3, %r3, %r0; ", Part::Issue),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r3, %r4, %r5, %r6}, {%r7, %r8}, {%f0, %f1, %f2, %f3}; ",
            Part::Tensor,
        ),
    ] {
        assert_eq!(estimate(&often(what, 4), 2, &A100).0.bound, bound, "{what}");
    }
    let copy = " mad.lo.s32 %r2, %r1, 32, %r0; mul.wide.u32 %rd4, %r2, 128; add.s64 %rd4, %rd4, %rd0; ld.global.u32 %r3, [%rd4];";
    let (memory, _) = estimate(copy, 4096, &A100);
    assert_eq!(memory.bound, Part::Memory);
    // each thread reads its own sector
    assert_eq!(memory.seconds, 4096.0 * 32.0 * 32.0 / 1555e9);
}

#[test]
fn blocks_fill_the_card_one_after_the_other() {
    let body = often("fma.rn.f32 %f0, %f0, %f1, %f1; ", 4);
    let seconds = |blocks| estimate(&body, blocks, &A100).0.seconds;
    // 108 multiprocessors
    assert_eq!(seconds(1), seconds(108));
    assert_eq!(seconds(109), 2.0 * seconds(108));
    assert_eq!(seconds(216), 2.0 * seconds(108));
    // a block is one warp and does 256 multiply-adds in each of 32 lanes, 64 a clock
    assert_eq!(seconds(1), 256.0 * 32.0 / 64.0 / 1.41e9);
}
