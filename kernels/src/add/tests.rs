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
    use super::*;
    use crate::case::Inputs;
    use crate::case::card::{BEYOND, Card, VAST, check_on_cards, get, on_a_card, put};
    use crate::{FloatBuffer, FloatDtype};
    use half::bf16;

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// Tests every pair of formats. The sum is an f32, and rounded once if `y` is bf16.
    #[test]
    fn sums_are_those_of_f32_rounded() {
        on_a_card(|device| {
            for len in [1, 255, 256, 257, 1000] {
                let mut inputs = Inputs::of(&[len]);
                let [x, y] = [(); 2].map(|()| inputs.normal_bf16(len, 1.0));
                let upload = |dtype, values: &[bf16]| -> FloatBuffer {
                    let wide: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
                    crate::case::float(device, dtype, &wide).unwrap()
                };
                for (of_x, of_y) in BOTH.into_iter().flat_map(|of_x| BOTH.map(|of_y| (of_x, of_y))) {
                    let (on_card, mut sums) = (upload(of_x, &x), upload(of_y, &y));
                    Add { len, x: on_card.view(), y: sums.view_mut() }.run(device).unwrap();
                    let sum = x.iter().zip(&y).map(|(x, y)| x.to_f32() + y.to_f32());
                    let want: Vec<f32> = match of_y {
                        FloatDtype::F32 => sum.collect(),
                        FloatDtype::Bf16 => sum.map(|sum| bf16::from_f32(sum).to_f32()).collect(),
                    };
                    assert_eq!(sums.download().unwrap(), want, "[{len}] {of_x:?} to {of_y:?}");
                }
            }
        });
    }

    const BOTH: [FloatDtype; 2] = [FloatDtype::F32, FloatDtype::Bf16];

    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let (mut x, mut y) = (card.alloc::<f32>("x", VAST).unwrap(), card.alloc::<f32>("y", VAST).unwrap());
        let (some, other) = (Inputs::of(&[1]).normal(1000, 1.0), Inputs::of(&[2]).normal(1000, 1.0));
        put(&mut x, BEYOND.start, &some);
        put(&mut y, BEYOND.start, &other);
        Add { len: VAST, x: x.view().into(), y: y.view_mut().into() }.run(&card).unwrap();
        let want: Vec<f32> = some.iter().zip(&other).map(|(x, y)| x + y).collect();
        assert_eq!(get(&y, BEYOND), want);
        assert_eq!(get(&y, 0..1000), [0.0; 1000]);
        card.assert_silent();
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
