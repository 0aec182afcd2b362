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
    use super::*;
    use crate::case::Inputs;
    use crate::case::card::{BEYOND, Card, VAST, check_on_cards, get, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let values = Inputs::of(&[VAST]).normal(1000, 10.0);
        let (mut vast, mut small) = (card.alloc::<f32>("x", VAST).unwrap(), card.upload("x", &values).unwrap());
        put(&mut vast, BEYOND.start, &values);
        for (len, x) in [(VAST, &mut vast), (1000, &mut small)] {
            Softcap { len, cap: 5.0, x: x.view_mut() }.run(&card).unwrap();
        }
        assert_eq!(get(&vast, BEYOND), small.download().unwrap());
        card.assert_silent();
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
