//! Lanes that take different branches.

use crate::kernel::{Card, at, kernel};

#[test]
fn loops_of_different_lengths_end_for_each_lane() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " add.s32 %r2, %r0, 1; mov.u32 %r3, 0;
AGAIN: setp.eq.s32 %p0, %r2, 1;
 @%p0 bra DONE;
 and.b32 %r4, %r2, 1; setp.eq.s32 %p1, %r4, 0;
 @%p1 bra EVEN;
 mad.lo.s32 %r2, %r2, 3, 1;
 bra.uni NEXT;
EVEN: shr.u32 %r2, %r2, 1;
NEXT: add.s32 %r3, %r3, 1;
 bra AGAIN;
DONE: {to} st.global.u32 [%rd4], %r3;"
        ),
    );
    let steps = |mut n: u32| {
        let mut steps = 0;
        while n != 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        steps
    };
    let want: Vec<u32> = (1..=100).map(steps).collect();
    assert_eq!(Card::new().results(&text, 1, 100, 100), want);
}

#[test]
fn lanes_that_return_early_leave_the_others_alone() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " {to} st.global.u32 [%rd4], 7;
 and.b32 %r2, %r0, 3; setp.eq.s32 %p0, %r2, 0;
 @%p0 ret;
 setp.eq.s32 %p1, %r2, 1;
 @%p1 bra ONE;
 bar.sync 0;
 st.global.u32 [%rd4], 8;
 ret;
ONE: bar.sync 0;
 st.global.u32 [%rd4], 9;"
        ),
    );
    // the lanes wait at two `bar.sync 0` instructions, which the machine does not treat as one place
    let card = Card::new();
    let to = card.memory.allocate(256).unwrap();
    let outcome = card.launch(&text, 1, 64, &[to]).unwrap();
    assert!(outcome.reports.iter().all(|report| report.check == ptx_machine::Check::Sync), "{:?}", outcome.reports);
    assert!(!outcome.reports.is_empty());
}

#[test]
fn guards_let_lanes_keep_what_they_have() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " mov.u32 %r2, 5; setp.lt.u32 %p0, %r0, 10;
 @%p0 mov.u32 %r2, %r0;
 @!%p0 add.s32 %r2, %r2, %r0;
 {to} st.global.u32 [%rd4], %r2;"
        ),
    );
    let want: Vec<u32> = (0..50).map(|i| if i < 10 { i } else { 5 + i }).collect();
    assert_eq!(Card::new().results(&text, 1, 50, 50), want);
}

#[test]
fn lanes_off_at_a_load_that_widens_keep_what_they_have() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        // the text names `%rd6` only above the load, and `%rd5` only from the load on; but the code jumps, so `%rd5` holds its 7
        // while `%rd6` is written
        &format!(
            " {to} and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0;
 bra FIRST;
AGAIN: mul.wide.u32 %rd6, %r0, 3; st.global.u32 [%rd4], %rd6;
 @%p0 ld.global.u32 %rd5, [%rd4];
 st.global.u32 [%rd4], %rd5;
 ret;
FIRST: mov.u64 %rd5, 7;
 bra AGAIN;"
        ),
    );
    let want: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { 3 * i } else { 7 }).collect();
    assert_eq!(Card::new().results(&text, 1, 32, 32), want);
}

#[test]
fn scopes_shadow_registers_and_labels() {
    let to = at("%rd4", "%rd0", "%r0");
    let text = kernel(
        1,
        "",
        &format!(
            " mov.u32 %r2, 1;
 {{ .reg .b32 %r2; .reg .pred p; mov.u32 %r2, 40; setp.gt.u32 p, %r2, %r0;
 @p bra SKIP;
 mov.u32 %r2, 50;
SKIP: add.s32 %r3, %r2, 2; }}
 {{ .reg .pred p; setp.eq.s32 p, %r0, 0; @p bra SKIP; add.s32 %r3, %r3, 100; SKIP: }}
 add.s32 %r3, %r3, %r2;
 {to} st.global.u32 [%rd4], %r3;"
        ),
    );
    let want: Vec<u32> = (0..64).map(|i| (if i < 40 { 42 } else { 52 }) + if i > 0 { 100 } else { 0 } + 1).collect();
    assert_eq!(Card::new().results(&text, 1, 64, 64), want);
}

#[test]
fn a_thread_knows_its_place_on_every_axis() {
    let text = kernel(
        1,
        "",
        " mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y;
 mov.u32 %r6, %ctaid.y; mov.u32 %r7, %ctaid.z; mov.u32 %r8, %nctaid.x; mov.u32 %r9, %nctaid.y; mov.u32 %r10, %ntid.z;
 mad.lo.s32 %r11, %r3, %r5, %r2; mad.lo.s32 %r11, %r11, %r4, %r0;
 mad.lo.s32 %r12, %r7, %r9, %r6; mad.lo.s32 %r12, %r12, %r8, %r1;
 mul.lo.s32 %r13, %r4, %r5; mul.lo.s32 %r13, %r13, %r10;
 mad.lo.s32 %r14, %r12, %r13, %r11;
 mul.wide.u32 %rd4, %r14, 4; add.s64 %rd4, %rd4, %rd0; mov.u32 %r15, %laneid;
 mad.lo.s32 %r14, %r14, 32, %r15; st.global.u32 [%rd4], %r14;",
    );
    let card = Card::new();
    let (grid, block) = ([2, 3, 4], [5, 3, 2]);
    let n = 24 * 30;
    let to = card.memory.allocate(4 * n).unwrap();
    let module = ptx_machine::Module::load(&text, &card.memory).unwrap();
    let parameters = to.to_le_bytes();
    let launch = ptx_machine::Launch { grid, block, dynamic_shared: 0, parameters: &parameters };
    let outcome = module.kernels()[0].launch(&card.memory, &launch, &card.settings).unwrap();
    assert_eq!(outcome.reports, []);
    let want: Vec<u32> = (0..n as u32).map(|i| i * 32 + i % 30).collect();
    assert_eq!(card.words(to, n as usize), want);
}
