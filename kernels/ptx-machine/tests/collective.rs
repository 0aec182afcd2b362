//! Shuffles, votes, barriers with results.

use crate::kernel::{Card, at, kernel};

#[test]
fn shuffles_take_from_where_the_manual_says() {
    for (mode, b, width) in [
        ("idx", 5, 32),
        ("idx", 37, 8),
        ("idx", 3, 16),
        ("up", 1, 32),
        ("up", 4, 8),
        ("up", 31, 32),
        ("down", 1, 32),
        ("down", 3, 16),
        ("down", 31, 32),
        ("bfly", 1, 32),
        ("bfly", 16, 32),
        ("bfly", 8, 8),
        ("bfly", 3, 4),
    ] {
        // `c` packs the width and the clamp as CUDA's `__shfl_sync` does
        let clamp = if mode == "up" { 0 } else { 31 };
        let c = (32 - width) << 8 | clamp;
        let to = at("%rd4", "%rd0", "%r0");
        let text = kernel(
            1,
            "",
            &format!(
                " add.s32 %r2, %r0, 100; shfl.sync.{mode}.b32 %r3|%p0, %r2, {b}, {c}, -1; selp.u32 %r4, 1000, 0, %p0;
 add.s32 %r3, %r3, %r4; {to} st.global.u32 [%rd4], %r3;"
            ),
        );
        let want: Vec<u32> = (0..32i32)
            .map(|lane| {
                let first = lane / width * width;
                let from = match mode {
                    "idx" => first + b % width,
                    "up" => lane - b,
                    "down" => lane + b,
                    _ => lane ^ b,
                };
                // except for `up`, only the end of the lane's own part is a limit: a butterfly may reach into the parts before it
                let is_inside = match mode {
                    "up" => from >= first,
                    _ => from < first + width,
                };
                (if is_inside { from + 1000 } else { lane }) as u32 + 100
            })
            .collect();
        assert_eq!(Card::new().results(&text, 1, 32, 32), want, "{mode} {b} {width}");
    }
}

#[test]
fn votes_are_of_the_members() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " setp.ge.u32 %p0, %r0, 4; setp.lt.u32 %p1, %r0, 8;
 @%p1 bra LOW;
 vote.sync.ballot.b32 %r2, %p0, 0xffffff00; vote.sync.all.pred %p2, %p0, 0xffffff00; vote.sync.any.pred %p3, %p1, 0xffffff00;
 bra.uni ON;
LOW: vote.sync.ballot.b32 %r2, %p0, 0xff; vote.sync.all.pred %p2, %p0, 0xff; vote.sync.any.pred %p3, %p1, 0xff;
ON: selp.u32 %r3, 1, 0, %p2; selp.u32 %r4, 2, 0, %p3; xor.b32 %r2, %r2, %r3; xor.b32 %r2, %r2, %r4;
 {to} st.global.u32 [%rd4], %r2;"
        ),
    );
    let want: Vec<u32> = (0..32).map(|lane| if lane < 8 { 0xf0 ^ 2 } else { 0xffff_ff00 ^ 1 }).collect();
    assert_eq!(Card::new().results(&text, 1, 32, 32), want);
}

#[test]
fn barriers_count_over_the_block() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " setp.lt.u32 %p0, %r0, 40; bar.red.popc.u32 %r2, 0, %p0; bar.red.and.pred %p1, 0, %p0; bar.red.or.pred %p2, 0, %p0;
 setp.lt.u32 %p3, %r0, 90; bar.red.and.pred %p4, 0, %p3;
 selp.u32 %r3, 100, 0, %p1; selp.u32 %r4, 1000, 0, %p2; selp.u32 %r5, 10000, 0, %p4;
 add.s32 %r2, %r2, %r3; add.s32 %r2, %r2, %r4; add.s32 %r2, %r2, %r5; {to} st.global.u32 [%rd4], %r2;"
        ),
    );
    assert_eq!(Card::new().results(&text, 1, 80, 80), vec![11040; 80]);
}

#[test]
fn the_active_lanes_are_those_that_are_there() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " setp.lt.u32 %p0, %r0, 4; @%p0 bra LOW; activemask.b32 %r2; bra.uni ON; LOW: activemask.b32 %r2;
ON: {to} st.global.u32 [%rd4], %r2;"
        ),
    );
    let want: Vec<u32> = (0..32).map(|lane| if lane < 4 { 0xf } else { 0xffff_fff0 }).collect();
    assert_eq!(Card::new().results(&text, 1, 32, 32), want);
}
