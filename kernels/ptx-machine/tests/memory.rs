//! Loads, stores and copies of every width; local memory; parameters; variables.

use crate::kernel::{Card, kernel};
use ptx_machine::{Launch, Module};

#[test]
fn elements_of_every_width_move() {
    let text = kernel(
        2,
        "",
        " ld.global.u8 %h0, [%rd0+1]; ld.global.s8 %h1, [%rd0+3]; ld.global.u16 %h2, [%rd0+2]; ld.global.s16 %r2, [%rd0+2];
 ld.global.u64 %rd4, [%rd0+8]; ld.global.v2.u64 {%rd5, %rd6}, [%rd0+16]; ld.global.v4.u16 {%h3, %h4, %h5, %h6}, [%rd0+8];
 ld.global.nc.v4.f32 {%f0, %f1, %f2, %f3}, [%rd0+16]; ld.global.v2.u8 {%h7, %h1}, [%rd0+2];
 cvt.u32.u16 %r3, %h0; st.global.u32 [%rd1], %r3; cvt.s32.s16 %r3, %h1; st.global.u32 [%rd1+4], %r3;
 st.global.u32 [%rd1+8], %r2; st.global.u16 [%rd1+12], %h2; st.global.u16 [%rd1+14], %h6;
 st.global.v2.u64 [%rd1+16], {%rd6, %rd5}; st.global.u64 [%rd1+32], %rd4; st.global.v4.f32 [%rd1+48], {%f3, %f2, %f1, %f0};
 st.global.v2.u16 [%rd1+40], {%h3, %h4}; st.global.u8 [%rd1+44], %h7; st.global.u8 [%rd1+45], %r3; st.global.u16 [%rd1+46], 7;",
    );
    let card = Card::new();
    let from = card.upload(&[0xf1f2_8384, 1, 0xaabb_ccdd, 0x1122_3344, 5, 6, 7, 8]);
    let to = card.memory.allocate(64).unwrap();
    assert_eq!(card.launch(&text, 1, 1, &[from, to]).unwrap().reports, []);
    let want = [
        0x83, 0xf1, 0xffff_f1f2, 0x1122_f1f2, 7, 8, 5, 6, 0xaabb_ccdd, 0x1122_3344, 0xaabb_ccdd, 0x0007_f1f2, 8, 7, 6,
        5,
    ];
    assert_eq!(card.words(to, 16), want);
}

#[test]
fn numbers_keep_their_sign_in_wider_registers() {
    let text = kernel(
        2,
        "",
        " ld.global.s32 %rd4, [%rd0]; ld.global.u32 %rd5, [%rd0]; ld.global.s16 %rd6, [%rd0]; ld.volatile.global.u8 %rd7, [%rd0];
 st.global.u64 [%rd1], %rd4; st.global.u64 [%rd1+8], %rd5; st.global.u64 [%rd1+16], %rd6; st.global.u64 [%rd1+24], %rd7;
 st.global.u32 [%rd1+32], %rd4; st.global.u8 [%rd1+36], %rd4; st.global.u8 [%rd1+37], 0; st.global.u16 [%rd1+38], 0;",
    );
    let card = Card::new();
    let (from, to) = (card.upload(&[-3i32 as u32]), card.memory.allocate(40).unwrap());
    assert_eq!(card.launch(&text, 1, 1, &[from, to]).unwrap().reports, []);
    let minus_three = -3i32 as u32;
    assert_eq!(
        card.words(to, 10),
        [minus_three, u32::MAX, minus_three, 0, minus_three, u32::MAX, 0xfd, 0, minus_three, 0xfd]
    );
}

#[test]
fn local_memory_is_each_threads_own() {
    let text = kernel(
        1,
        " .local .align 4 .b8 own[64];",
        " mov.u64 %rd5, own; mov.u32 %r2, 0;
FILL: mul.wide.u32 %rd6, %r2, 4; add.s64 %rd6, %rd6, %rd5; mad.lo.s32 %r3, %r0, 100, %r2; st.local.u32 [%rd6], %r3;
 add.s32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 16; @%p0 bra FILL;
 and.b32 %r4, %r0, 15; mul.wide.u32 %rd6, %r4, 4; add.s64 %rd6, %rd6, %rd5; ld.local.u32 %r5, [%rd6];
 mul.wide.u32 %rd4, %r0, 4; add.s64 %rd4, %rd4, %rd0; st.global.u32 [%rd4], %r5;",
    );
    let want: Vec<u32> = (0..40).map(|i| 100 * i + i % 16).collect();
    assert_eq!(Card::new().results(&text, 1, 40, 40), want);
}

#[test]
fn parameters_are_where_their_offsets_say() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n
.visible .entry k(.param .align 8 .b8 args[32], .param .u8 small, .param .f32 last)\n{\n .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .b16 %h<4>;
 ld.param.u64 %rd0, [args]; ld.param.v2.u32 {%r0, %r1}, [args+8]; ld.param.s16 %r2, [args+16]; ld.param.u64 %rd1, [args+24];
 ld.param.s8 %h0, [small]; ld.param.f32 %r4, [last]; cvt.s32.s16 %r3, %h0;
 st.global.v4.u32 [%rd0], {%r0, %r1, %r2, %r3}; st.global.u64 [%rd0+16], %rd1; st.global.u32 [%rd0+24], %r4;
 ret;\n}\n";
    let card = Card::new();
    let to = card.memory.allocate(32).unwrap();
    let module = Module::load(text, &card.memory).unwrap();
    let k = &module.kernels()[0];
    assert_eq!((k.parameters(), k.parameter_bytes()), (&[(0, 32), (32, 1), (36, 4)][..], 40));
    let mut parameters = Vec::new();
    parameters.extend(to.to_le_bytes());
    parameters.extend([7u32, 8].iter().flat_map(|x| x.to_le_bytes()));
    parameters.extend((-3i64).to_le_bytes());
    parameters.extend(0x1234_5678_9abc_def0u64.to_le_bytes());
    parameters.extend([0xfe, 9, 9, 9]);
    parameters.extend(2.5f32.to_le_bytes());
    let launch = Launch { grid: [1; 3], block: [1; 3], dynamic_shared: 0, parameters: &parameters };
    assert_eq!(k.launch(&card.memory, &launch, &card.settings).unwrap().reports, []);
    let want = [7, 8, -3i32 as u32, -2i32 as u32, 0x9abc_def0, 0x1234_5678, 2.5f32.to_bits()];
    assert_eq!(card.words(to, 7), want);
}

#[test]
fn variables_of_a_module_have_their_first_content() {
    let text = kernel(
        1,
        "",
        " mov.u64 %rd4, table; mul.wide.u32 %rd5, %r0, 4; add.s64 %rd4, %rd4, %rd5; ld.const.f32 %f0, [%rd4];
 add.s64 %rd5, %rd5, %rd0; st.global.f32 [%rd5], %f0;",
    );
    let declared = ".address_size 64\n.const .align 4 .f32 table[3] = {0f3F800000, 0f40000000};\n.global .align 8 .u64 unused = 5;";
    let text = text.replace(".address_size 64", declared);
    let card = Card::new();
    assert_eq!(card.results(&text, 1, 3, 3), [1f32, 2.0, 0.0].map(f32::to_bits));
    // `unused`, which no kernel names, takes no memory
    assert_eq!(card.memory.count(), 2);
}

#[test]
fn copies_to_shared_memory_fill_with_zeros() {
    let text = kernel(
        2,
        " .shared .align 16 .b8 tile[512];",
        // lane i copies the first i of its 16 bytes, at most all 16
        " mov.u64 %rd5, tile; mul.wide.u32 %rd6, %r0, 16; add.s64 %rd6, %rd6, %rd5; cvt.u32.u64 %r2, %rd6;
 mul.wide.u32 %rd7, %r0, 16; add.s64 %rd8, %rd7, %rd0; min.u32 %r3, %r0, 16;
 cp.async.cg.shared.global.L2::128B [%r2], [%rd8], 16, %r3; cp.async.commit_group; cp.async.wait_group 0;
 ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%rd6]; add.s64 %rd9, %rd7, %rd1; st.global.v4.u32 [%rd9], {%r4, %r5, %r6, %r7};",
    );
    let card = Card::new();
    let bytes: Vec<u8> = (0..512).map(|i| (i % 251 + 1) as u8).collect();
    let from =
        card.upload(&bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect::<Vec<_>>());
    let to = card.memory.allocate(512).unwrap();
    assert_eq!(card.launch(&text, 1, 32, &[from, to]).unwrap().reports, []);
    let got: Vec<u8> = card.words(to, 128).iter().flat_map(|word| word.to_le_bytes()).collect();
    let want: Vec<u8> = (0..512).map(|i| if i % 16 < (i / 16).min(16) { bytes[i] } else { 0 }).collect();
    assert_eq!(got, want);
}

#[test]
fn dynamic_shared_memory_is_behind_the_declared() {
    let text = kernel(
        1,
        " .shared .align 4 .b8 own[20];",
        " mov.u64 %rd5, own; mov.u64 %rd6, more; sub.s64 %rd7, %rd6, %rd5; cvt.u32.u64 %r2, %rd7;
 st.shared.u32 [%rd6+60], %r2; ld.shared.u32 %r3, [%rd6+60]; st.global.u32 [%rd0], %r3;",
    );
    let text = text.replace(".visible", ".extern .shared .align 16 .b8 more[];\n.visible");
    let mut card = Card::new();
    card.shared = 64;
    assert_eq!(card.results(&text, 1, 1, 1), [32]);
    card.shared = 60;
    let to = card.upload(&[0]);
    let reports = card.launch(&text, 1, 1, &[to]).unwrap().reports;
    assert!(reports.iter().any(|report| report.check == ptx_machine::Check::Memory), "{reports:?}");
}

#[test]
fn memory_has_a_limit_and_is_never_handed_out_twice() {
    let card = ptx_machine::Memory::new(1000);
    let first = card.allocate(600).unwrap();
    let full = ptx_machine::MemoryError::Full { bytes: 401, free: 400 };
    assert_eq!(card.allocate(401), Err(full));
    card.free(first).unwrap();
    assert_eq!(card.free(first), Err(ptx_machine::MemoryError::NotAllocated { address: first }));
    let second = card.allocate(1000).unwrap();
    assert_ne!(first, second);
    assert_eq!(card.room(), (0, 1000));
    assert!(card.write(second + 990, &[0; 11]).is_err() && card.read(first, &mut [0; 1]).is_err());
    assert!(card.write(second + 990, &[0; 10]).is_ok());
}
