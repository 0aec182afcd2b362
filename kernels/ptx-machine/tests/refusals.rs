//! What the machine refuses, and with which messages.

use crate::kernel::{Card, kernel};
use ptx_machine::{Launch, LaunchError, LoadError, Memory, Module};

#[test]
fn what_is_not_known_is_named_with_its_line() {
    for (body, reason) in [
        ("sad.u32 %r2, %r3, %r4, %r5;", "the instruction `sad.u32` is not known"),
        ("add.s32 %r2, %r3;", "3 operands were expected, there are 2"),
        ("add.s32 %rd4, %r3, %r2;", "a result of another width"),
        ("add.s32 %r2, %rd4, %r2;", "an operand of another width"),
        ("add.s32 %r2, %clock, %r2;", "no special register `%clock` is known"),
        ("mov.u64 %rd4, nothing;", "nothing is called `nothing`"),
        ("bra NOWHERE;", "no label `NOWHERE`"),
        ("ld.global.v8.f32 {%f0}, [%rd0];", "the instruction `ld.global.v8.f32` is not known"),
        ("ld.global.v2.f32 {%f0}, [%rd0];", "another number of results was expected"),
        ("cp.async.cg.shared.global [%r2], [%rd0], 8;", "a copy of 8 bytes does not exist"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f0}, {%r2}, {%r3}, {%f0};", "the instruction `mma.sync"),
        ("setp.lt.f16 %p0, %h0, %h1;", "the instruction `setp.lt.f16` is not known"),
        ("@%rd9 add.s32 %r2, %r2, %r2;", "the guard is no predicate"),
        ("setp.lt.s32 %p0|%r2, %r0, %r1;", "a result of another width"),
        ("and.pred %p0, %p1, !%r2;", "an operand that is not understood here"),
        ("bar;", "the instruction `bar` is not known"),
        ("activemask.b32;", "1 operands were expected, there are 0"),
        ("atom.global.cas.b32 %r2, [%rd0], %r3;", "another number of operands was expected"),
        ("mov.b64 {{%r2, %r3}, %r4}, %rd0;", "an operand was expected"),
    ] {
        let memory = Memory::new(1 << 20);
        let error = match Module::load(&kernel(1, "", &format!(" {body}")), &memory) {
            Err(LoadError::Ptx(error)) => error,
            other => panic!("{body}: {other:?}"),
        };
        assert!(error.reason.starts_with(reason), "{error}");
        assert_eq!((error.line, error.text.as_str()), (11, body), "{error}");
    }
}

#[test]
fn text_that_ends_too_early_is_refused() {
    let whole = kernel(1, " .shared .align 4 .b8 words[128];", " add.s32 %r2, %r0, 1;");
    let memory = Memory::new(1 << 20);
    // every length that leaves out the closing brace
    for length in 0..whole.trim_end().len() {
        let cut = &whole[..length];
        if let Ok(module) = Module::load(cut, &memory) {
            assert_eq!(module.kernels().len(), 0, "{cut}");
        }
    }
}

#[test]
fn a_kernel_that_does_not_end_is_stopped() {
    let mut card = Card::new();
    card.settings.limit = 10_000;
    let error = card.launch(&kernel(0, "", "AGAIN: bra AGAIN;"), 1, 32, &[]).unwrap_err();
    assert_eq!(error, LaunchError::Endless { kernel: "k".to_owned(), limit: 10_000, reports: Vec::new() });
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let card = Card::new();
    let text = kernel(1, "", " mov.u32 %r2, 0;").replace("\n{", "\n.maxntid 64, 2, 1\n{");
    let module = Module::load(&text, &card.memory).unwrap();
    let launch = |grid, block, parameters: &[u8]| {
        let launch = Launch { grid, block, dynamic_shared: 0, parameters };
        module.kernels()[0].launch(&card.memory, &launch, &card.settings).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(launch([1; 3], [64, 2, 1], &[0; 8]), Ok(()));
    assert_eq!(launch([1; 3], [64, 2, 2], &[0; 8]), Err("k: the number of threads is 256, at most 128 fit".to_owned()));
    assert_eq!(
        launch([1, 65536, 1], [1; 3], &[0; 8]),
        Err("k: the number of blocks along y is 65536, at most 65535 fit".to_owned())
    );
    assert_eq!(
        launch([1, 0, 1], [1; 3], &[0; 8]),
        Err("k: the number of blocks is 0, a launch has at least one".to_owned())
    );
    assert_eq!(launch([1; 3], [1; 3], &[0; 4]), Err("k: 4 bytes of parameters, the kernel has 8".to_owned()));
}

#[test]
fn sizes_that_no_memory_has_are_refused() {
    let memory = Memory::new(1 << 20);
    for declaration in [
        " .shared .align 4 .b8 words[4294967295];",
        " .shared .align 3 .b8 words[4];",
        " .shared .align 0 .b8 words[4];",
        " .local .align 4 .b64 words[1000000000];",
        " .reg .b32 %many<4000000000>;",
        " .reg .b32 %many<59990>;",
    ] {
        assert!(Module::load(&kernel(1, declaration, " mov.u32 %r2, 0;"), &memory).is_err(), "{declaration}");
    }
    let card = Card::new();
    let text = kernel(1, " .shared .align 4 .b8 words[200000];", " mov.u32 %r2, 0;");
    let module = Module::load(&text, &card.memory).unwrap();
    let launch = |grid, block, dynamic_shared| {
        let launch = Launch { grid, block, dynamic_shared, parameters: &[0; 8] };
        module.kernels()[0].launch(&card.memory, &launch, &card.settings).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(launch([1; 3], [1; 3], 32448), Ok(()));
    for dynamic in [32449, u32::MAX] {
        assert!(launch([1; 3], [1; 3], dynamic).unwrap_err().contains("the bytes of shared memory"), "{dynamic}");
    }
    // 2^64 threads, a product that wraps: the axes are checked first
    assert!(launch([1; 3], [1 << 31, 1 << 31, 4], 0).unwrap_err().contains("the number of threads along x"));
    // one block more than fits along x
    assert!(launch([1 << 31, 1, 1], [1; 3], 0).unwrap_err().contains("the number of blocks along x"));
}

#[test]
fn as_many_registers_fit_as_the_message_says() {
    let memory = Memory::new(1 << 20);
    // besides these, the kernel has the 96 registers that `kernel` declares, and four constants: two special registers, a
    // parameter and a zero
    let load = |many: u32| {
        Module::load(&kernel(1, &format!(" .reg .b32 %many<{many}>;"), " mov.u32 %r2, 0;"), &memory).map(|_| ())
    };
    assert_eq!(load(59_900), Ok(()));
    let Err(LoadError::Ptx(error)) = load(59_901) else { panic!("60001 registers are too many") };
    assert_eq!((error.reason.as_str(), error.text.as_str()), ("more than 60000 registers", "k"));
}

#[test]
fn registers_that_may_hold_nothing_are_named() {
    let memory = Memory::new(1 << 20);
    let text = kernel(1, "", " setp.eq.s32 %p0, %r0, 0;\n @%p0 bra ON;\n mov.u32 %r2, 1;\nON: add.s32 %r3, %r2, 1;");
    assert_eq!(Module::load(&text, &memory).unwrap().kernels()[0].unset(), [14]);
    // a register that only prepares an operand of a guarded instruction is not named
    let text =
        kernel(1, "", " setp.eq.s32 %p0, %r0, 0;\n @%p0 ld.shared.u32 %r3, [%r0];\n @%p0 and.pred %p1, %p0, !%p0;");
    assert_eq!(Module::load(&text, &memory).unwrap().kernels()[0].unset(), [] as [u32; 0]);
    let text = kernel(1, "", " mov.u32 %r2, 1;\n add.s32 %r3, %r2, 1;");
    assert_eq!(Module::load(&text, &memory).unwrap().kernels()[0].unset(), [] as [u32; 0]);
}

/// An accumulator that nothing sets must not look like a value that kernels use, such as 0 or the largest u32.
#[test]
fn registers_that_hold_nothing_are_nan_and_not_a_number_that_kernels_use() {
    let text =
        kernel(1, "", " st.global.f32 [%rd0], %f1;\n st.global.u32 [%rd0+4], %r5;\n st.global.u64 [%rd0+8], %rd9;");
    for words in Card::new().results(&text, 1, 1, 4).chunks(2) {
        assert!(words.iter().all(|word| f32::from_bits(*word).is_nan() && *word != u32::MAX), "{words:x?}");
        assert!(f64::from_bits(u64::from(words[1]) << 32 | u64::from(words[0])).is_nan(), "{words:x?}");
    }
}
