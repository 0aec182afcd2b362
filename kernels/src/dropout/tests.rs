//! Dropout against the reference, the statistics of the mask, and what the mask depends on.

use super::*;
use crate::KernelError;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;

fn device(threads: usize) -> Device {
    Device::cpu(Some(threads)).unwrap()
}

fn apply(device: &Device, cols: usize, p: f32, key: Key, first_row: u64, x: &[f32]) -> Vec<f32> {
    let (x, mut y) = (device.upload("x", x).unwrap(), device.alloc::<f32>("y", x.len()).unwrap());
    let rows = x.len() / cols;
    let numbers: Vec<u64> = (first_row..).take(rows).collect();
    let numbers = device.upload("numbers", &numbers).unwrap();
    Dropout { rows, cols, p, key, numbers: numbers.view(), x: x.view().into(), y: y.view_mut().into() }
        .run(device)
        .unwrap();
    y.download().unwrap()
}

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};
    use half::bf16;

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// Tests both formats, row numbers on both sides of 2^32, a `p` that drops almost nothing and one that drops almost everything.
    #[test]
    fn numbers_are_those_of_the_processor_bit_for_bit() {
        let card = Card::checked();
        let host = device(1);
        for (rows, cols, p) in [(7, 1030, 0.1), (5, 67, 0.5), (3, 130, 0.999_999), (3, 130, 1e-9), (4, 3, 0.0)] {
            let key = Key::new(0x1234_5678_9abc_def0, u64::MAX - 3, 77);
            let numbers: Vec<u64> = (0..rows as u64).map(|row| (1 << 32) + 2 - row).collect();
            let x = Inputs::of(&[rows, cols]).normal(rows * cols, 1.0);
            let narrow: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            let on = |device: &Device| {
                let numbers = device.upload("numbers", &numbers).unwrap();
                let numbers = numbers.view();
                let (from, mut to) = (device.upload("x", &x).unwrap(), device.alloc::<f32>("y", x.len()).unwrap());
                let (f32s, y) = (FloatSlice::F32(from.view()), FloatSliceMut::F32(to.view_mut()));
                Dropout { rows, cols, p, key, numbers, x: f32s, y }.run(device).unwrap();
                let wide: Vec<u32> = to.download().unwrap().into_iter().map(f32::to_bits).collect();
                let (from, mut to) =
                    (device.upload("x", &narrow).unwrap(), device.alloc::<bf16>("y", x.len()).unwrap());
                let (bf16s, y) = (FloatSlice::Bf16(from.view()), FloatSliceMut::Bf16(to.view_mut()));
                Dropout { rows, cols, p, key, numbers, x: bf16s, y }.run(device).unwrap();
                let narrow: Vec<u16> = to.download().unwrap().into_iter().map(bf16::to_bits).collect();
                (wide, narrow)
            };
            assert!(on(&card) == on(&host), "[{rows}, {cols}] p {p}");
        }
        card.assert_silent();
    }

    #[test]
    fn a_word_at_the_threshold_keeps_its_element() {
        on_a_card(check_word_at_the_threshold);
    }

    #[test]
    fn a_row_beyond_32_bits_has_a_place_of_its_own() {
        let Some(card) = Card::vast(1) else { return };
        let cols = 1 << 16;
        let values = Inputs::of(&[cols]).normal(cols, 1.0);
        let dropped = |device: &Device, rows: usize| {
            let mut numbers = device.alloc::<u64>("numbers", rows).unwrap();
            put(&mut numbers, rows - 1, &[7]);
            let [mut x, mut y] = [(); 2].map(|()| device.alloc::<f32>("x", rows * cols).unwrap());
            put(&mut x, (rows - 1) * cols, &values);
            let (key, numbers, x, to) = (Key::new(1, 2, 3), numbers.view(), x.view().into(), y.view_mut().into());
            Dropout { rows, cols, p: 0.5, key, numbers, x, y: to }.run(device).unwrap();
            get(&y, (rows - 1) * cols..rows * cols)
        };
        assert!(dropped(&card, (1 << 16) + 1) == dropped(&device(1), 1));
        card.assert_silent();
    }
}

/// The kept share of `n` draws has a standard deviation of `sqrt(p (1 - p) / n)`. A share is off by more than five standard
/// deviations about once in two million seeds. Each of the four words of a Philox block is checked by itself, so that none is
/// favoured.
#[test]
fn the_kept_share_is_one_minus_p() {
    let (rows, cols) = (1024, 1024);
    let device = device(2);
    let ones = vec![1.0; rows * cols];
    for p in [0.01, 0.1, 0.5, 0.9] {
        let y = apply(&device, cols, p, Key::new(11, 0, 5), 0, &ones);
        let scale = 1.0 / (1.0 - p);
        assert!(y.iter().all(|&y| y == 0.0 || (y - scale).abs() <= f32::EPSILON * scale), "kept ones are scaled");
        for class in 0..4 {
            let kept = y.iter().skip(class).step_by(4).filter(|y| **y != 0.0).count() as f64;
            let n = (rows * cols / 4) as f64;
            let deviation = (f64::from(p) * (1.0 - f64::from(p)) / n).sqrt();
            let share = kept / n;
            assert!((share - (1.0 - f64::from(p))).abs() < 5.0 * deviation, "p {p}, class {class}: {share}");
        }
    }
}

/// A word that is equal to the threshold keeps its element. Here `p` is exactly one of the words over 2^32: a word that ends with
/// a byte of zeros has no more bits than an f32.
fn check_word_at_the_threshold(device: &Device) {
    let (key, cols) = (Key::new(5, 1, 2), 4096);
    let words: Vec<u32> = (0..cols as u64 / 4).flat_map(|low| key.words(9, low)).collect();
    let of_few_bits =
        words.iter().find(|word| **word % 256 == 0).expect("of 4096 words, some end with a byte of zeros");
    let p = *of_few_bits as f32 / 4_294_967_296.0;
    assert_eq!(threshold(p), *of_few_bits);
    let kept: Vec<bool> = words.iter().map(|word| word >= of_few_bits).collect();
    let y = apply(device, cols, p, key, 9, &vec![1.0; cols]);
    assert!(y.iter().map(|y| *y > 0.0).eq(kept), "on {}", device.describe());
}

#[test]
fn a_word_at_the_threshold_keeps_its_element() {
    for isa in Isa::available() {
        check_word_at_the_threshold(&Device::cpu_with(Some(1), isa).unwrap());
    }
}

#[test]
fn p_zero_is_the_identity() {
    let x = Inputs::of(&[577]).normal(3 * 577, 1.0);
    assert_eq!(apply(&device(1), 577, 0.0, Key::new(1, 1, 1), 0, &x), x);
}

/// The call on ones returns the factor of each element: 0, or the scale of a kept one. The forward call uses the same factors.
#[test]
fn forward_and_backward_have_the_same_mask() {
    let (key, device) = (Key::new(3, 1, 4), device(2));
    let x = Inputs::of(&[65]).normal(300 * 65, 1.0);
    let y = apply(&device, 65, 0.3, key, 9, &x);
    let dx = apply(&device, 65, 0.3, key, 9, &vec![1.0; x.len()]);
    for i in 0..x.len() {
        assert_eq!(y[i], x[i] * dx[i], "element {i}");
    }
}

#[test]
fn the_mask_of_a_row_depends_on_its_number_alone() {
    let (cols, key) = (67, Key::new(3, 1, 4));
    let x = vec![1.0; 500 * cols];
    for isa in Isa::available() {
        let [one, two, three] = [1, 2, 3].map(|threads| {
            let device = Device::cpu_with(Some(threads), isa).unwrap();
            apply(&device, cols, 0.5, key, 100, &x)
        });
        assert!(one == two && two == three, "thread counts on {}", isa.name());
        let device = Device::cpu_with(Some(1), isa).unwrap();
        assert_eq!(apply(&device, cols, 0.5, key, 303, &x[..cols]), one[203 * cols..204 * cols], "{}", isa.name());
    }
}

#[test]
fn other_seeds_steps_and_places_have_other_masks() {
    let device = device(1);
    let x = vec![1.0; 1000];
    let masks: Vec<_> = [Key::new(1, 1, 1), Key::new(2, 1, 1), Key::new(1, 2, 1), Key::new(1, 1, 2)]
        .into_iter()
        .map(|key| apply(&device, 100, 0.5, key, 0, &x))
        .collect();
    for i in 0..masks.len() {
        for j in 0..i {
            let same = masks[i].iter().zip(&masks[j]).filter(|(a, b)| a == b).count() as f64;
            // independent masks agree in 500 of 1000 places, with a standard deviation of 15.8: allow five standard deviations
            assert!((same - 500.0).abs() < 79.0, "masks {i} and {j} agree in {same} places");
        }
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = device(1);
    let (x, mut y) = (device.zeros::<f32>("x", 5).unwrap(), device.zeros::<f32>("y", 6).unwrap());
    let (key, numbers) = (Key::new(0, 0, 0), device.zeros::<u64>("numbers", 2).unwrap());
    let call =
        Dropout { rows: 2, cols: 3, p: 0.1, key, numbers: numbers.view(), x: x.view().into(), y: y.view_mut().into() };
    let error = call.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "dropout", argument: "x", got: 5, want: 6 });
}
