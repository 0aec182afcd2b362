//! Checks the soft-cap against the reference, that threads do not change bits, and that wrong lengths are refused.

use super::*;
use crate::KernelError;
use crate::case::check_all;
use crate::case::operands::check_thread_counts;
use crate::cpu::Isa;

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use crate::case::card::check_on_cards;
    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }
}

#[test]
fn threads_do_not_change_bits() {
    check_thread_counts(case::Shape { len: 100_001, cap: 50.0 });
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let mut x = device.zeros("x", 2).unwrap();
    let error = Softcap { len: 3, cap: 30.0, x: x.view_mut() }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "softcap", argument: "x", got: 2, want: 3 });
}
