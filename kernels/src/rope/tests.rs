//! Checks the rotation against the reference, its gradient, its dependence on distances, which results are equal to the bit, and
//! which calls are refused.

use super::case::{RotateShape, TablesShape};
use super::*;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[test]
fn backward_is_the_derivative_of_forward() {
    let sizes = [2, 7, 6];
    let (rows, half) = (3, 3);
    let mut inputs = Inputs::of(&sizes);
    let mut draw = |n| -> Vec<f64> { inputs.normal(n, 1.0).into_iter().map(f64::from).collect() };
    // any numbers, not the cosine and sine of an angle: the scaled tables of yarn do not hold those either
    let (cos, sin) = (draw(rows * half), draw(rows * half));
    let (x, dy) = (draw(rows * 14), draw(rows * 14));
    let loss = |x: &[f64]| {
        let mut y = x.to_vec();
        reference::rotate(sizes, Direction::Forward, &cos, &sin, &mut y);
        gradient::dot(&dy, &y)
    };
    let mut dx = dy.clone();
    reference::rotate(sizes, Direction::Backward, &cos, &sin, &mut dx);
    gradient::assert_same(&dx, &gradient::by_differences(&x, loss));
}

/// The dot product of two rotated vectors depends only on the distance between their positions. This is the purpose of the
/// encoding.
#[test]
fn scores_depend_on_the_distance() {
    let half = 4;
    let inv_freq: Vec<f64> = (0..half).map(|i| f64::from(0.5f32.powi(i))).collect();
    let mut inputs = Inputs::of(&[half as usize]);
    let mut draw = || -> Vec<f64> { inputs.normal(8, 1.0).into_iter().map(f64::from).collect() };
    let (q, k) = (draw(), draw());
    let score = |q_at, k_at| {
        // each frequency is a power of two and each position a small integer, so their product is exact in f32
        let (cos, sin) = reference::tables(half as usize, &[q_at, k_at], &[0, 0], &inv_freq, &[1.0]);
        let (mut q, mut k) = (q.clone(), k.clone());
        reference::rotate([1, 8, 8], Direction::Forward, &cos[..4], &sin[..4], &mut q);
        reference::rotate([1, 8, 8], Direction::Forward, &cos[4..], &sin[4..], &mut k);
        gradient::dot(&q, &k)
    };
    assert!((score(17, 5) - score(112, 100)).abs() < 1e-12, "{} {}", score(17, 5), score(112, 100));
    assert!((score(17, 5) - score(17, 6)).abs() > 1e-3);
}

#[test]
fn threads_do_not_change_bits() {
    check_thread_counts(TablesShape { rows: 301, half: 33, n_variants: 2 });
    for direction in [Direction::Forward, Direction::Backward] {
        check_thread_counts(RotateShape { rows: 301, heads: 3, head_dim: 40, rotary_dim: 34, direction });
    }
}

/// Checks that the rotation has the bits of the reference in f32. There is no tolerance, since the kernel neither fuses nor
/// reorders operations.
fn check_rotation_bits(device: &Device) {
    let (rows, sizes @ [heads, head_dim, rotary_dim]) = (5, [3, 40, 34]);
    let mut inputs = Inputs::of(&sizes);
    let x = inputs.normal(rows * heads * head_dim, 1.0);
    let (cos, sin) = (inputs.normal(rows * rotary_dim / 2, 1.0), inputs.normal(rows * rotary_dim / 2, 1.0));
    for direction in [Direction::Forward, Direction::Backward] {
        let mut want = x.clone();
        reference::rotate(sizes, direction, &cos, &sin, &mut want);
        let (cos, sin) = (device.upload("cos", &cos).unwrap(), device.upload("sin", &sin).unwrap());
        let mut x = device.upload("x", &x).unwrap();
        let (cos, sin) = (cos.view(), sin.view());
        let (stride, view) = (heads * head_dim, x.view_mut().into());
        Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x: view }.run(device).unwrap();
        assert_eq!(x.download().unwrap(), want, "{direction:?} on {}", device.describe());
    }
}

#[test]
fn rotation_has_the_bits_of_the_reference_in_f32() {
    for isa in Isa::available() {
        check_rotation_bits(&Device::cpu_with(Some(1), isa).unwrap());
    }
}

#[test]
fn wrong_sizes_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let three = device.zeros("three", 3).unwrap();
    let mut x = device.zeros::<f32>("x", 6).unwrap();
    let mut rotate = |rotary_dim, head_dim| {
        let (cos, sin, direction) = (three.view(), three.view(), Direction::Forward);
        let (stride, x) = (head_dim, x.view_mut().into());
        Rotate { rows: 1, heads: 1, head_dim, rotary_dim, direction, cos, sin, stride, x }.run(&device)
    };
    let (kernel, want) = ("rope.rotate", "even and at most head_dim");
    assert_eq!(rotate(5, 6).unwrap_err(), KernelError::Size { kernel, argument: "rotary_dim", got: 5, want });
    assert_eq!(rotate(8, 6).unwrap_err(), KernelError::Size { kernel, argument: "rotary_dim", got: 8, want });
    assert_eq!(rotate(6, 7).unwrap_err(), KernelError::Shape { kernel, argument: "x", got: 6, want: 7 });
    assert_eq!(rotate(6, 6), Ok(()));

    let ids = device.upload_indices("ids", &[0, 2]).unwrap();
    let two = device.zeros("two", 2).unwrap();
    let [mut cos, mut sin] = [(); 2].map(|()| device.zeros("table", 2).unwrap());
    let error = Tables {
        rows: 2,
        half: 1,
        positions: ids.view().values(),
        variants: ids.view(),
        inv_freq: two.view(),
        scaling: two.view(),
        cos: cos.view_mut(),
        sin: sin.view_mut(),
    }
    .run(&device)
    .unwrap_err();
    assert_eq!(error, KernelError::RowIndex { kernel: "rope.tables", place: 1, index: 2, rows: 2 });
}

/// In bf16, the result is that of the f32 rotation, rounded once. The heads are at the front of longer rows, whose other columns
/// keep their values.
fn check_bf16(device: &Device) {
    let (rows, heads, head_dim, rotary_dim, stride) = (3, 2, 40, 34, 100);
    let mut inputs = Inputs::of(&[heads, head_dim]);
    let x = inputs.normal_bf16(rows * stride, 1.0);
    let (cos, sin) = (inputs.normal(rows * rotary_dim / 2, 1.0), inputs.normal(rows * rotary_dim / 2, 1.0));
    let (cos, sin) = (device.upload("cos", &cos).unwrap(), device.upload("sin", &sin).unwrap());
    for direction in [Direction::Forward, Direction::Backward] {
        let rotate = |x: crate::FloatSliceMut<'_>| {
            let (cos, sin) = (cos.view(), sin.view());
            Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x }.run(device).unwrap();
        };
        let mut narrow = device.upload("x", &x).unwrap();
        let mut wide = device.upload("x", &x.iter().map(|x| x.to_f32()).collect::<Vec<_>>()).unwrap();
        rotate(narrow.view_mut().into());
        rotate(wide.view_mut().into());
        let place = format!("{direction:?} on {}", device.describe());
        let rounded: Vec<_> = wide.download().unwrap().into_iter().map(half::bf16::from_f32).collect();
        assert_eq!(narrow.download().unwrap(), rounded, "{place}");
        assert!(rounded.chunks(stride).zip(x.chunks(stride)).all(|(y, x)| y[80..] == x[80..]), "{place}");
    }
}

#[test]
fn operands_of_bf16_give_the_result_of_f32_rounded() {
    for isa in Isa::available() {
        check_bf16(&Device::cpu_with(Some(1), isa).unwrap());
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(case::cases());
    }

    #[test]
    fn rotation_has_the_bits_of_the_reference_in_f32() {
        on_a_card(check_rotation_bits);
    }

    #[test]
    fn operands_of_bf16_give_the_result_of_f32_rounded() {
        on_a_card(check_bf16);
    }

    /// The card and the processor compute cosine and sine in f64 and round them once to f32. So an element can differ only if its
    /// f64 value is within 1e-15 of the middle between two f32 numbers. The positions go up to the largest u32.
    #[test]
    fn tables_have_the_bits_of_the_cpu() {
        let (half, positions) = (3, [0, 1, 2, 3, 4, 5, 100, 4095, 131_071, 16_777_217, u32::MAX]);
        let inv_freq = [1.0, 0.333_333_34, 1e-4, 0.25, 0.1, 7e-6];
        let tables = |device: &Device| {
            let rows = positions.len();
            let variants: Vec<u32> = (0..rows as u32).map(|row| row % 2).collect();
            let variants = device.upload_indices("variants", &variants).unwrap();
            let positions = device.upload("positions", &positions).unwrap();
            let inv_freq = device.upload("inv_freq", &inv_freq).unwrap();
            let scaling = device.upload("scaling", &[1.0, 1.346_573_6]).unwrap();
            let [mut cos, mut sin] = [(); 2].map(|()| device.alloc::<f32>("table", rows * half).unwrap());
            Tables {
                rows,
                half,
                positions: positions.view(),
                variants: variants.view(),
                inv_freq: inv_freq.view(),
                scaling: scaling.view(),
                cos: cos.view_mut(),
                sin: sin.view_mut(),
            }
            .run(device)
            .unwrap();
            [cos.download().unwrap(), sin.download().unwrap()]
                .concat()
                .into_iter()
                .map(f32::to_bits)
                .collect::<Vec<_>>()
        };
        let want = tables(&Device::cpu(Some(1)).unwrap());
        on_a_card(|device| assert_eq!(tables(device), want));
    }

    /// Compares the last 256 angles with those of a table of one row.
    #[test]
    fn angles_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let half = 1 << 16;
        let inv_freq: Vec<f32> = (0..half).map(|i| 1.0 / (1 + i) as f32).collect();
        let tables = |device: &Device, rows: usize| {
            let positions: Vec<u32> = (0..rows).map(|row| if row == rows - 1 { 4095 } else { 7 }).collect();
            let positions = device.upload("positions", &positions).unwrap();
            let variants = device.upload_indices("variants", &vec![0; rows]).unwrap();
            let inv_freq = device.upload("inv_freq", &inv_freq).unwrap();
            let scaling = device.upload("scaling", &[1.25]).unwrap();
            let [mut cos, mut sin] = [(); 2].map(|()| device.alloc::<f32>("table", rows * half).unwrap());
            Tables {
                rows,
                half,
                positions: positions.view(),
                variants: variants.view(),
                inv_freq: inv_freq.view(),
                scaling: scaling.view(),
                cos: cos.view_mut(),
                sin: sin.view_mut(),
            }
            .run(device)
            .unwrap();
            [cos, sin].map(|of| get(&of, rows * half - 256..rows * half))
        };
        assert_eq!(tables(&card, (1 << 16) + 1), tables(&Device::cpu(Some(1)).unwrap(), 1));
        card.assert_silent();
    }

    /// Compares the last 256 pairs of the last row with a call for these alone.
    #[test]
    fn pairs_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let mut inputs = Inputs::of(&[256]);
        let [cos, sin, a, b] = [(); 4].map(|()| inputs.normal(256, 1.0));
        for direction in [Direction::Forward, Direction::Backward] {
            let rotate = |rows: usize, half: usize| {
                let (stride, last) = (2 * half, rows * half - 256);
                let upload = |values: &[f32]| {
                    let mut of = card.alloc::<f32>("table", rows * half).unwrap();
                    put(&mut of, last, values);
                    of
                };
                let (cos, sin) = (upload(&cos), upload(&sin));
                let mut x = card.alloc::<f32>("x", rows * stride).unwrap();
                let (first, second) = (rows * stride - half - 256, rows * stride - 256);
                put(&mut x, first, &a);
                put(&mut x, second, &b);
                let (cos, sin, view) = (cos.view(), sin.view(), x.view_mut().into());
                let (heads, head_dim, rotary_dim) = (1, stride, stride);
                Rotate { rows, heads, head_dim, rotary_dim, direction, cos, sin, stride, x: view }.run(&card).unwrap();
                [first, second].map(|at| get(&x, at..at + 256))
            };
            assert_eq!(rotate((1 << 16) + 1, 1 << 16), rotate(1, 256), "{direction:?}");
        }
        card.assert_silent();
    }
}
