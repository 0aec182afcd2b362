//! Comparisons with the reference, equal bits, and refusals.

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
    check_thread_counts(case::AddShape { len: 100_001 });
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (mut six, two) = (device.zeros::<f32>("six", 6).unwrap(), device.zeros::<f32>("two", 2).unwrap());
    let error = Add { len: 6, x: two.view().into(), y: six.view_mut().into() }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "add", argument: "x", got: 2, want: 6 });
}
