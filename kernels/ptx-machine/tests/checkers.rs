//! What each checker finds, and that it finds nothing in a sound kernel, in every schedule and with early and late copies.

use crate::kernel::{Card, at, found, kernel};
use ptx_machine::{Arrival, Check, Checks};

/// Sixty-four threads each write a word of shared memory. Each thread then reads the word of the thread 32 before or after it.
fn exchange(between: &str) -> String {
    let to = at("%rd4", "%rd0", "%r0");
    kernel(
        1,
        " .shared .align 4 .b8 words[256];",
        &format!(
            " mov.u64 %rd5, words; mul.wide.u32 %rd6, %r0, 4; add.s64 %rd6, %rd6, %rd5;
 st.shared.u32 [%rd6], %r0;
 {between}
 xor.b32 %r2, %r0, 32; mul.wide.u32 %rd7, %r2, 4; add.s64 %rd7, %rd7, %rd5;
 ld.shared.u32 %r3, [%rd7];
 {to} st.global.u32 [%rd4], %r3;"
        ),
    )
}

#[test]
fn a_missing_barrier_is_a_race() {
    assert_eq!(found(&exchange("bar.sync 0;"), 1, 64), []);
    let found = found_with_any_init(&exchange(""), 64);
    assert!(found.contains(&Check::Race), "{found:?}");
}

/// Returns what the checkers find without initcheck: without a barrier, the schedule decides whether a word is written before it
/// is read, but not whether there is a race.
fn found_with_any_init(text: &str, threads: u32) -> Vec<Check> {
    let card = {
        let mut card = Card::new();
        card.settings.checks = Checks { init: false, race: true };
        card
    };
    let to = card.upload(&[0; 1024]);
    card.launch(text, 1, threads, &[to]).unwrap().reports.into_iter().map(|report| report.check).collect()
}

#[test]
fn a_barrier_for_some_warps_orders_those() {
    // warp 1 waits for what warp 0 wrote; warp 2 takes no part
    let body = |pair: &str| {
        let to = at("%rd4", "%rd0", "%r0");
        kernel(
            1,
            " .shared .align 4 .b8 words[128];",
            &format!(
                " mov.u64 %rd5, words; and.b32 %r2, %r0, 31; mul.wide.u32 %rd6, %r2, 4; add.s64 %rd6, %rd6, %rd5;
 shr.u32 %r3, %r0, 5; setp.eq.s32 %p0, %r3, 0; setp.eq.s32 %p1, %r3, 1;
 @%p0 bra WRITE;
 @%p1 bra READ;
 ret;
WRITE: st.shared.u32 [%rd6], %r0;
 bar.arrive 1, {pair};
 ret;
READ: bar.sync 1, {pair};
 ld.shared.u32 %r4, [%rd6];
 {to} st.global.u32 [%rd4], %r4;"
            ),
        )
    };
    assert_eq!(found(&body("64"), 1, 96), []);
    // a barrier for one warp: the reader does not wait for the writer
    assert!(found_with_any_init(&body("32"), 96).contains(&Check::Race));
    // a barrier for three warps, but only two come
    assert_eq!(found(&body("96"), 1, 96), [Check::Sync]);
}

#[test]
fn lanes_of_a_warp_need_an_order_too() {
    let body = |between: &str| {
        let to = at("%rd4", "%rd0", "%r0");
        kernel(
            1,
            " .shared .align 4 .b8 words[128];",
            &format!(
                " mov.u64 %rd5, words; mul.wide.u32 %rd6, %r0, 4; add.s64 %rd6, %rd6, %rd5;
 st.shared.u32 [%rd6], %r0;
 {between}
 xor.b32 %r2, %r0, 1; mul.wide.u32 %rd7, %r2, 4; add.s64 %rd7, %rd7, %rd5;
 ld.shared.u32 %r3, [%rd7];
 {to} st.global.u32 [%rd4], %r3;"
            ),
        )
    };
    assert_eq!(found(&body("bar.warp.sync -1;"), 1, 32), []);
    assert_eq!(found(&body("bar.sync 0;"), 1, 32), []);
    assert_eq!(found(&body(""), 1, 32), [Check::Race]);
}

#[test]
fn two_lanes_that_write_one_word_race() {
    let body = |index: &str| {
        kernel(
            1,
            " .shared .align 4 .b8 words[128];",
            &format!(
                " mov.u64 %rd5, words; shr.u32 %r2, %r0, {index}; mul.wide.u32 %rd6, %r2, 4; add.s64 %rd6, %rd6, %rd5;
 st.shared.u32 [%rd6], %r0;"
            ),
        )
    };
    assert_eq!(found(&body("0"), 1, 32), []);
    assert_eq!(found(&body("1"), 1, 32), [Check::Race]);
}

#[test]
fn reads_before_a_write_need_a_barrier() {
    // every warp reads all words, then each thread changes its own word
    let body = |between: &str| {
        let to = at("%rd4", "%rd0", "%r0");
        kernel(
            1,
            " .shared .align 4 .b8 words[256];",
            &format!(
                " mov.u64 %rd5, words; mul.wide.u32 %rd6, %r0, 4; add.s64 %rd6, %rd6, %rd5;
 st.shared.u32 [%rd6], %r0; bar.sync 0; mov.u32 %r2, 0; mov.u32 %r3, 0;
 mov.u64 %rd7, %rd5;
SUM: ld.shared.u32 %r4, [%rd7]; add.s32 %r3, %r3, %r4; add.s64 %rd7, %rd7, 4; add.s32 %r2, %r2, 1;
 setp.lt.u32 %p0, %r2, 64; @%p0 bra SUM;
 {between}
 st.shared.u32 [%rd6], %r3;
 {to} st.global.u32 [%rd4], %r3;"
            ),
        )
    };
    assert_eq!(found(&body("bar.sync 0;"), 1, 64), []);
    assert_eq!(found(&body(""), 1, 64), [Check::Race]);
}

#[test]
fn blocks_that_write_one_word_race() {
    let body = |what: &str| kernel(1, "", &format!(" setp.eq.s32 %p0, %r0, 0; @!%p0 ret; {what}"));
    assert_eq!(
        found(&body("mul.wide.u32 %rd4, %r1, 4; add.s64 %rd4, %rd4, %rd0; st.global.u32 [%rd4], 1;"), 4, 32),
        []
    );
    assert_eq!(found(&body("red.global.add.u32 [%rd0], 1;"), 4, 32), []);
    assert_eq!(found(&body("st.global.u32 [%rd0], 1;"), 4, 32), [Check::Race]);
    assert_eq!(found(&body("ld.global.u32 %r2, [%rd0+4]; st.global.u32 [%rd0+4], %r2;"), 4, 32), [Check::Race]);
    assert_eq!(found(&body("ld.global.u32 %r2, [%rd0+4];"), 4, 32), []);
    // writes to the two halves of a word do not race
    assert_eq!(
        found(&body("mul.wide.u32 %rd4, %r1, 2; add.s64 %rd4, %rd4, %rd0; st.global.u16 [%rd4], 1;"), 4, 32),
        []
    );
}

#[test]
fn device_memory_that_warps_of_a_block_share_needs_barriers() {
    let body = |between: &str| {
        let (own, other) = (at("%rd4", "%rd0", "%r0"), at("%rd5", "%rd0", "%r2"));
        kernel(
            1,
            "",
            &format!(
                " {own} st.global.u32 [%rd4], %r0; {between} xor.b32 %r2, %r0, 32; {other}
 ld.global.u32 %r3, [%rd5]; st.global.u32 [%rd4+512], %r3;"
            ),
        )
    };
    assert_eq!(found(&body("bar.sync 0;"), 1, 64), []);
    assert_eq!(found(&body(""), 1, 64), [Check::Race]);
}

#[test]
fn accesses_outside_and_unaligned_are_found() {
    let body =
        |access: &str| kernel(1, " .shared .align 4 .b8 words[128];", &format!(" mov.u64 %rd5, words; {access}"));
    for (access, is_sound) in [
        ("st.global.u32 [%rd0+4092], 1;", true),
        ("st.global.u32 [%rd0+4096], 1;", false),
        ("st.global.u32 [%rd0+-4], 1;", false),
        ("st.global.u32 [%rd0+2], 1;", false),
        ("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd0+4080];", true),
        ("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd0+4088];", false),
        ("ld.global.v2.u32 {%r2, %r3}, [%rd0+4];", false),
        ("mov.u64 %rd6, 0; ld.global.u32 %r2, [%rd6];", false),
        ("st.shared.u32 [%rd5+124], 1;", true),
        ("st.shared.u32 [%rd5+128], 1;", false),
        ("st.shared.u32 [%rd5+2], 1;", false),
        ("st.shared.u32 [%rd5+-4], 1;", false),
    ] {
        let want: &[Check] = if is_sound { &[] } else { &[Check::Memory] };
        assert_eq!(found(&body(&format!("setp.eq.s32 %p0, %r0, 0; @!%p0 ret; {access}")), 1, 32), want, "{access}");
    }
}

#[test]
fn freed_memory_is_no_memory() {
    let card = Card::new();
    let to = card.upload(&[0; 4]);
    card.memory.free(to).unwrap();
    // the next allocation has another address
    assert_ne!(card.upload(&[0; 4]), to);
    let outcome = card.launch(&kernel(1, "", " st.global.u32 [%rd0], 1;"), 1, 1, &[to]).unwrap();
    assert_eq!(outcome.reports[0].check, Check::Memory);
}

#[test]
fn bytes_that_nobody_wrote_are_found() {
    let card = Card::new();
    let (from, to) = (card.memory.allocate(64).unwrap(), card.memory.allocate(64).unwrap());
    card.memory.write(from, &[1; 16]).unwrap();
    let text = kernel(2, "", " ld.global.u32 %r2, [%rd0+12]; ld.global.u32 %r3, [%rd0+16]; st.global.u32 [%rd1], %r3;");
    let reports = card.launch(&text, 1, 1, &[from, to]).unwrap().reports;
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.check, report.line), (Check::Init, 12), "{report}");
    // the 4 bytes that the kernel wrote count as written, the other 60 do not
    assert_eq!(card.memory.unwritten(to, 64), Ok(60));
    let shared = kernel(1, " .shared .align 4 .b8 words[8];", " mov.u64 %rd5, words; ld.shared.u32 %r2, [%rd5];");
    assert_eq!(found(&shared, 1, 1), [Check::Init]);
}

#[test]
fn lanes_that_do_not_meet_are_found() {
    for (body, is_sound) in [
        (" shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, -1;", true),
        // half of the warp takes another branch
        (
            " setp.lt.u32 %p0, %r0, 16; @%p0 bra END; shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, -1; END: bar.warp.sync -1;",
            false,
        ),
        // the mask names only the half that did not branch
        (
            " setp.lt.u32 %p0, %r0, 16; @%p0 bra END; shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, 0xffff0000; END: mov.u32 %r4, 0;",
            true,
        ),
        // that half reads from the lanes that branched
        (
            " setp.lt.u32 %p0, %r0, 16; @%p0 bra END; shfl.sync.bfly.b32 %r3|%p1, %r0, 16, 31, 0xffff0000; END: mov.u32 %r4, 0;",
            false,
        ),
        // both halves meet at the shuffle
        (
            " setp.lt.u32 %p0, %r0, 16; @%p0 bra ON; mov.u32 %r4, 1; ON: shfl.sync.idx.b32 %r3|%p1, %r0, 1, 31, -1;",
            true,
        ),
        (" setp.lt.u32 %p0, %r0, 16; @%p0 bra END; bar.sync 0; END: bar.warp.sync -1;", false),
        (" setp.lt.u32 %p0, %r0, 16; @%p0 bar.sync 0;", false),
        (" setp.lt.u32 %p0, %r0, 16; @%p0 ret; bar.sync 0;", true),
        // masks that leave out lanes that are there, or that differ between lanes
        (" shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, 0x7fffffff;", false),
        (" setp.eq.s32 %p1, %r0, 0; vote.sync.ballot.b32 %r3, %p1, 0xffff;", false),
        (" bar.warp.sync 0xffff;", false),
        (" mov.u32 %r4, -1; setp.lt.u32 %p0, %r0, 31; @%p0 mov.u32 %r4, 0x7fffffff; bar.warp.sync %r4;", false),
    ] {
        let want: &[Check] = if is_sound { &[] } else { &[Check::Sync] };
        assert_eq!(found(&kernel(1, "", body), 1, 32), want, "{body}");
    }
}

/// Half of a warp branches to the end. The other half waits for all lanes of the warp that have not returned, and then writes.
/// Compilers write an early return this way.
#[test]
fn lanes_that_wait_for_others_go_on_when_those_have_returned() {
    let to = at("%rd4", "%rd0", "%r0");
    for meeting in ["bar.sync 0;", "shfl.sync.bfly.b32 %r3|%p1, %r0, 1, 31, -1;", "bar.warp.sync -1;"] {
        for half in ["lt", "ge"] {
            let text = kernel(
                1,
                "",
                &format!(
                    " setp.{half}.u32 %p0, %r0, 16; @%p0 bra END; {meeting} {to} st.global.u32 [%rd4], 1; END: mov.u32 %r4, 0;"
                ),
            );
            let card = Card::new();
            let results = card.upload(&[0; 32]);
            assert_eq!(card.launch(&text, 1, 32, &[results]).unwrap().reports, [], "{meeting}");
            let want: Vec<u32> = (0..32).map(|lane| u32::from((lane >= 16) == (half == "lt"))).collect();
            assert_eq!(card.words(results, 32), want, "{meeting}");
        }
    }
}

/// Half of a warp has returned when the other half loads a matrix.
#[test]
fn a_matrix_needs_the_whole_warp() {
    let load =
        " mov.u64 %rd5, tile; cvt.u32.u64 %r9, %rd5; @%p0 ret; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r10}, [%r9];";
    let text = |setp: &str| {
        let fill = " mov.u64 %rd5, tile; mul.wide.u32 %rd6, %r0, 16; add.s64 %rd6, %rd6, %rd5; st.shared.v4.u32 [%rd6], {%r0, %r0, %r0, %r0}; bar.sync 0;";
        kernel(1, " .shared .align 16 .b8 tile[512];", &format!("{fill} {setp} {load}"))
    };
    assert_eq!(found(&text("setp.lt.u32 %p0, %r0, 0;"), 1, 32), []);
    assert_eq!(found(&text("setp.lt.u32 %p0, %r0, 16;"), 1, 32), [Check::Sync]);
}

/// Two warps change a word atomically and then read it. Without a barrier, what they read depends on who came last.
#[test]
fn atomic_changes_need_a_barrier_before_a_read() {
    let body = |between: &str| {
        let to = at("%rd4", "%rd0", "%r0");
        kernel(
            1,
            " .shared .align 4 .b8 word[4];",
            &format!(
                " mov.u64 %rd5, word; setp.eq.s32 %p0, %r0, 0; @%p0 st.shared.u32 [%rd5], 0; bar.sync 0;
 atom.shared.add.u32 %r2, [%rd5], 1; {between} ld.shared.u32 %r3, [%rd5]; {to} st.global.u32 [%rd4], %r3;"
            ),
        )
    };
    assert_eq!(found(&body("bar.sync 0;"), 1, 64), []);
    assert_eq!(found(&body(""), 1, 64), [Check::Race]);
}

/// Bytes behind the last variable are outside the shared memory.
#[test]
fn shared_memory_ends_with_its_last_variable() {
    let body = kernel(1, " .shared .align 4 .b8 words[20];", " mov.u64 %rd5, words; st.shared.u32 [%rd5+20], 1;");
    assert_eq!(found(&body, 1, 1), [Check::Memory]);
}

/// Returns a kernel in which lane 0 copies 16 bytes to shared memory and all lanes read from them.
fn copied(after_the_copy: &str, after_the_wait: &str) -> String {
    let to = at("%rd4", "%rd0", "%r0");
    kernel(
        1,
        " .shared .align 16 .b8 words[16];",
        &format!(
            " mov.u64 %rd5, words; cvt.u32.u64 %r2, %rd5; setp.eq.s32 %p0, %r0, 0; @!%p0 bra ON;
 cp.async.cg.shared.global [%r2], [%rd0], 16;
 cp.async.commit_group;
ON: {after_the_copy}
 {after_the_wait}
 ld.shared.u32 %r3, [%r2+4];
 add.s64 %rd4, %rd0, 64; {to} st.global.u32 [%rd4+128], %r3;"
        ),
    )
}

#[test]
fn copies_need_a_wait_and_then_a_barrier() {
    assert_eq!(found(&copied("cp.async.wait_group 0;", "bar.sync 0;"), 1, 32), []);
    assert_eq!(found(&copied("cp.async.wait_all;", "bar.sync 0;"), 1, 32), []);
    assert_eq!(found(&copied("", "bar.sync 0;"), 1, 32), [Check::Race]);
    assert_eq!(found(&copied("cp.async.wait_group 1;", "bar.sync 0;"), 1, 32), [Check::Race]);
    assert_eq!(found(&copied("cp.async.wait_group 0;", ""), 1, 32), [Check::Race]);
}

#[test]
fn copies_arrive_as_late_as_they_may() {
    let text = copied("", "bar.sync 0;");
    for (arrival, want) in [(Arrival::Early, 7), (Arrival::Late, u32::MAX)] {
        let mut card = Card::new();
        card.settings.arrival = arrival;
        let to = card.upload(&[7; 128]);
        card.launch(&text, 1, 32, &[to]).unwrap();
        assert_eq!(card.words(to, 48)[40], want);
    }
}
