//! Atomic changes.

use crate::kernel::{Card, kernel};

/// Eight lanes of a warp change one word, in device and in shared memory. Checks the old value that each lane gets, and the final
/// word.
#[test]
fn changes_are_made_one_after_the_other() {
    type Change = fn(u32, u32) -> u32;
    let changes: [(&str, u32, Change); 10] = [
        ("add.u32", 3, |old, x| old.wrapping_add(x)),
        ("min.u32", 9, |old, x| old.min(x)),
        ("max.u32", 9, |old, x| old.max(x)),
        ("min.s32", 9, |old, x| (old as i32).min(x as i32) as u32),
        ("max.s32", 9, |old, x| (old as i32).max(x as i32) as u32),
        ("and.b32", 0xffff, |old, x| old & x),
        ("or.b32", 1, |old, x| old | x),
        ("xor.b32", 1, |old, x| old ^ x),
        ("exch.b32", 1, |_, x| x),
        ("add.f32", 0x4000_0000, |old, x| (f32::from_bits(old) + f32::from_bits(x)).to_bits()),
    ];
    for (operation, start, change) in changes {
        // a lane's operand; it is negative for lanes 0 to 2
        let operand = |lane: u32| (lane.wrapping_sub(3)).wrapping_mul(0x0100_0001);
        let changed = format!(
            " sub.s32 %r2, %r0, 3; mul.lo.s32 %r2, %r2, 0x01000001; mul.wide.u32 %rd4, %r0, 4; add.s64 %rd4, %rd4, %rd0;
 atom.SPACE.{operation} %r3, [ADDRESS], %r2; st.global.u32 [%rd4+4], %r3;"
        );
        let global = kernel(1, "", &changed.replace("SPACE", "global").replace("ADDRESS", "%rd0"));
        let shared = kernel(
            1,
            " .shared .align 4 .b8 word[4];",
            &format!(
                " mov.u64 %rd5, word; ld.global.u32 %r4, [%rd0]; setp.eq.s32 %p0, %r0, 0; @%p0 st.shared.u32 [%rd5], %r4; bar.sync 0; {}
 bar.sync 0; ld.shared.u32 %r4, [%rd5]; @%p0 st.global.u32 [%rd0], %r4;",
                changed.replace("SPACE", "shared").replace("ADDRESS", "%rd5")
            ),
        );
        let mut want = vec![start];
        for lane in 0..8 {
            want.push(want[0]);
            want[0] = change(want[0], operand(lane));
        }
        for text in [global, shared] {
            let card = Card::new();
            let to = card.upload(&[start; 9]);
            assert_eq!(card.launch(&text, 1, 8, &[to]).unwrap().reports, [], "{operation}");
            assert_eq!(card.words(to, 9), want, "{operation}");
        }
    }
}

#[test]
fn one_lane_wins_a_comparison() {
    let text = kernel(
        1,
        "",
        " mul.wide.u32 %rd4, %r0, 8; add.s64 %rd4, %rd4, %rd0; cvt.u64.u32 %rd5, %r0; add.s64 %rd5, %rd5, 100;
 atom.global.cas.b64 %rd6, [%rd0], 7, %rd5; st.global.u64 [%rd4+8], %rd6;
 atom.global.add.u64 %rd7, [%rd0], 1;",
    );
    let card = Card::new();
    let to = card.upload(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(card.launch(&text, 1, 4, &[to]).unwrap().reports, []);
    assert_eq!(card.words(to, 10), [104, 0, 7, 0, 100, 0, 100, 0, 100, 0]);
}
