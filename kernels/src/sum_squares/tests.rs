//! Checks the sums against the reference, which sums are equal to the bit, and values that are very large or not finite.

use super::*;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;

fn sum(device: &Device, x: &[f32]) -> f64 {
    let x = device.upload("x", x).unwrap();
    SumSquares { xs: &[x.view()] }.run(device).unwrap()[0]
}

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{BEYOND, Card, VAST, check_on_cards, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// The card adds in the same order as the processor. The tensors have several blocks, one block, a part of a block, or no
    /// element.
    #[test]
    fn sums_are_those_of_the_processor_bit_for_bit() {
        let card = Card::checked();
        let host = Device::cpu(Some(1)).unwrap();
        let xs = [200_003, 0, 1, 33, 65_536, 65_537].map(|len| Inputs::of(&[len]).normal(len, 1.0));
        let on = |device: &Device| -> Vec<u64> {
            let xs = xs.each_ref().map(|x| device.upload("x", x).unwrap());
            let views = xs.each_ref().map(|x| x.view());
            // an empty sum may be +0 or -0, and adding 0.0 turns -0 into +0
            SumSquares { xs: &views }.run(device).unwrap().into_iter().map(|sum| (sum + 0.0).to_bits()).collect()
        };
        assert_eq!(on(&card), on(&host));
        card.assert_silent();
    }

    #[test]
    fn large_values_do_not_overflow_and_others_show() {
        let card = Card::checked();
        assert_eq!(sum(&card, &[1e30, -1e30]), 2.0 * f64::from(1e30f32) * f64::from(1e30f32));
        assert_eq!(sum(&card, &[1e-40]), f64::from(1e-40f32) * f64::from(1e-40f32));
        assert_eq!(sum(&card, &[1.0, f32::NEG_INFINITY]), f64::INFINITY);
        assert!(sum(&card, &[1.0, f32::NAN, 2.0]).is_nan());
        assert_eq!(sum(&card, &[]), 0.0);
        assert!(SumSquares { xs: &[] }.run(&card).unwrap().is_empty());
        card.assert_silent();
    }

    /// The sums of the blocks that do not run are 0.
    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let values = Inputs::of(&[VAST]).normal(1000, 1.0);
        let mut x = card.alloc::<f32>("x", VAST).unwrap();
        put(&mut x, BEYOND.start, &values);
        let sums = SumSquares { xs: &[x.view()] }.run(&card).unwrap();
        assert_eq!(sums, [sum(&Device::cpu(Some(1)).unwrap(), &values)]);
        card.assert_silent();
    }
}

/// The running sum to which an element is added does not depend on the instruction set, so the bits do not either.
#[test]
fn threads_and_instruction_sets_do_not_change_bits() {
    let x = Inputs::of(&[300_001]).normal(300_001, 1.0);
    let want = sum(&Device::cpu_with(Some(1), Isa::Portable).unwrap(), &x).to_bits();
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let device = Device::cpu_with(Some(threads), isa).unwrap();
            assert_eq!(sum(&device, &x).to_bits(), want, "{threads} threads, {}", isa.name());
        }
    }
}

#[test]
fn large_values_do_not_overflow_and_others_show() {
    let device = Device::cpu(Some(1)).unwrap();
    assert_eq!(sum(&device, &[1e30, -1e30]), 2.0 * f64::from(1e30f32) * f64::from(1e30f32));
    assert_eq!(sum(&device, &[1.0, f32::NEG_INFINITY]), f64::INFINITY);
    assert!(sum(&device, &[1.0, f32::NAN, 2.0]).is_nan());
    assert_eq!(sum(&device, &[]), 0.0);
}

#[test]
fn each_tensor_has_its_own_sum() {
    let device = Device::cpu(Some(1)).unwrap();
    let (three, four) = (device.upload("x", &[3.0]).unwrap(), device.upload("x", &[4.0]).unwrap());
    let sums = SumSquares { xs: &[three.view(), four.view(), three.view().range(0..0)] }.run(&device).unwrap();
    assert_eq!(sums, [9.0, 16.0, 0.0]);
}
