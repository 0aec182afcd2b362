//! What the counters count.

use crate::kernel::{Card, kernel};
use ptx_machine::{Checks, Counters, Counts, Memory};

fn counts(text: &str, words: usize) -> (Counts, u64) {
    let mut card = Card::new();
    card.settings.counts = true;
    let to = card.upload(&vec![0; words]);
    let outcome = card.launch(text, 1, 32, &[to]).unwrap();
    assert_eq!(outcome.reports, []);
    (outcome.blocks[0].total(), outcome.blocks[0].touched_bytes())
}

#[test]
fn sectors_are_those_that_hold_the_bytes() {
    let load = |stride: u32, kind: &str| {
        let body = format!(" mul.wide.u32 %rd4, %r0, {stride}; add.s64 %rd4, %rd4, %rd0; ld.global{kind}, [%rd4];");
        let (counts, touched) = counts(&kernel(1, "", &body), 4096);
        (counts.requests, counts.bytes, counts.sectors, touched)
    };
    assert_eq!(load(4, ".u32 %r2"), (1, 128, 4, 128));
    assert_eq!(load(0, ".u32 %r2"), (1, 128, 1, 32));
    assert_eq!(load(8, ".u32 %r2"), (1, 128, 8, 256));
    assert_eq!(load(128, ".u32 %r2"), (1, 128, 32, 1024));
    assert_eq!(load(16, ".v4.u32 {%r2, %r3, %r4, %r5}"), (1, 512, 16, 512));
}

#[test]
fn a_sector_that_is_read_and_written_counts_twice_and_blocks_share_it() {
    let body =
        " mul.wide.u32 %rd4, %r0, 4; add.s64 %rd4, %rd4, %rd0; ld.global.u32 %r2, [%rd4]; st.global.u32 [%rd4], %r2;";
    assert_eq!(counts(&kernel(1, "", body), 32).1, 256);
    let mut card = Card::new();
    (card.settings.counts, card.settings.checks) = (true, Checks::default());
    let to = card.upload(&[0; 32]);
    let both = Counters::of_all(&card.launch(&kernel(1, "", body), 2, 32, &[to]).unwrap().blocks);
    assert_eq!((both.total().sectors, both.touched_bytes()), (16, 256));
}

#[test]
fn turns_grow_where_lanes_meet_in_a_bank() {
    let load = |stride: u32, kind: &str| {
        let body = format!(
            " mov.u64 %rd5, tile; mul.wide.u32 %rd4, %r0, {stride}; add.s64 %rd4, %rd4, %rd5; st.shared{kind}; bar.warp.sync -1;"
        );
        let (counts, _) = counts(&kernel(1, " .shared .align 16 .b8 tile[8192];", &body), 1);
        (counts.wavefronts, counts.wavefronts_at_least)
    };
    assert_eq!(load(4, ".u32 [%rd4], 1"), (1, 1));
    assert_eq!(load(8, ".u32 [%rd4], 1"), (2, 1));
    assert_eq!(load(128, ".u32 [%rd4], 1"), (32, 1));
    assert_eq!(load(132, ".u32 [%rd4], 1"), (1, 1));
    assert_eq!(load(16, ".v4.u32 [%rd4], {%r0, %r0, %r0, %r0}"), (4, 4));
    assert_eq!(load(80, ".v4.u32 [%rd4], {%r0, %r0, %r0, %r0}"), (4, 4));
    assert_eq!(load(128, ".v4.u32 [%rd4], {%r0, %r0, %r0, %r0}"), (32, 4));
}

#[test]
fn lanes_that_are_off_are_counted() {
    let body = " setp.lt.u32 %p0, %r0, 8; @%p0 add.s32 %r2, %r0, 1; @%p0 bra END; add.s32 %r2, %r0, 2; END: add.s32 %r2, %r0, 3;";
    let (counts, _) = counts(&kernel(1, "", body), 1);
    // three instructions before the body, five in it, and one return
    assert_eq!((counts.executions, counts.lanes_off), (9, 24 + 24 + 8));
}

/// Returns a kernel in which each thread adds up a column of a matrix with `3 + block` rows.
fn columns() -> String {
    kernel(
        2,
        "",
        " add.s32 %r3, %r1, 3; mov.u32 %r2, 0; mov.f32 %f0, 0f00000000;
 mad.lo.s32 %r4, %r1, 32, %r0; mul.wide.u32 %rd4, %r4, 4; add.s64 %rd5, %rd4, %rd0;
NEXT: ld.global.f32 %f1, [%rd5]; add.f32 %f0, %f0, %f1; add.s64 %rd5, %rd5, 65536; add.s32 %r2, %r2, 1;
 setp.lt.u32 %p0, %r2, %r3; @%p0 bra NEXT;
 add.s64 %rd6, %rd4, %rd1; st.global.f32 [%rd6], %f0;",
    )
}

#[test]
fn chosen_blocks_count_as_they_do_among_all() {
    let mut card = Card::new();
    card.settings.counts = true;
    let (from, to) = (card.upload(&vec![0; 20 * 16384]), card.upload(&[0; 1024]));
    let all = card.launch(&columns(), 8, 32, &[from, to]).unwrap();
    card.settings.blocks = Some(vec![1, 6]);
    let some = card.launch(&columns(), 8, 32, &[from, to]).unwrap();
    assert_eq!(some.blocks.len(), 2);
    for (sampled, number) in some.blocks.iter().zip([1, 6]) {
        assert_eq!(sampled.instructions, all.blocks[number].instructions);
        assert_eq!(sampled.touched_bytes(), all.blocks[number].touched_bytes());
    }
    let sum: u64 = all.blocks.iter().map(|block| block.total().executions).sum();
    assert_eq!(sum, all.instructions());
}

#[test]
fn matrices_that_nobody_has_can_be_counted() {
    let mut card = Card { memory: Memory::new(1 << 44), ..Card::new() };
    (card.settings.counts, card.settings.blocks) = (true, Some(vec![0, 1000]));
    let (from, to) = (card.memory.allocate_sparse(1 << 43).unwrap(), card.memory.allocate_sparse(1 << 30).unwrap());
    let outcome = card.launch(&columns(), 4_000_000, 32, &[from, to]).unwrap();
    assert_eq!(outcome.reports, []);
    let loads = |block: usize| outcome.blocks[block].total().sectors / 4 - 1;
    assert_eq!([loads(0), loads(1)], [3, 1003]);
}
