//! Every case on every instruction set; what the definition says of ties and NaN.

use super::{Argmax, NONE, case, reference};
use crate::case::check_all;
use crate::{Device, KernelError};

#[test]
fn every_case_is_the_reference() {
    check_all(case::cases());
}

#[test]
fn the_first_of_equals_and_never_nan() {
    assert_eq!(reference::argmax(&[1.0, 3.0, 3.0], &[]), 1);
    assert_eq!(reference::argmax(&[f32::NAN, 1.0, f32::NAN], &[]), 1);
    assert_eq!(reference::argmax(&[f32::NAN, f32::NAN], &[]), NONE);
    assert_eq!(reference::argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY], &[]), 0);
    assert_eq!(reference::argmax(&[1.0, 3.0, 2.0], &[1]), 2);
    assert_eq!(reference::argmax(&[1.0, 3.0], &[1, 0]), NONE);
}

fn check_rows_without_a_largest(device: &Device) {
    let x = device.upload("x", &[f32::NAN; 40]).unwrap();
    let mut y = device.zeros::<u32>("y", 2).unwrap();
    let none = device.upload_indices("none", &[]).unwrap();
    Argmax { rows: 2, cols: 20, x: x.view(), left_out: none.view(), y: y.view_mut() }.run(device).unwrap();
    assert_eq!(y.download().unwrap(), [NONE; 2]);
    let all = device.upload_indices("all", &(0..20).collect::<Vec<_>>()).unwrap();
    Argmax { rows: 2, cols: 20, x: device.zeros("x", 40).unwrap().view(), left_out: all.view(), y: y.view_mut() }
        .run(device)
        .unwrap();
    assert_eq!(y.download().unwrap(), [NONE; 2]);
}

#[test]
fn a_row_of_nan_has_no_largest() {
    check_rows_without_a_largest(&Device::cpu(Some(1)).unwrap());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn every_case_is_the_reference() {
        check_on_cards(case::cases());
    }

    #[test]
    fn a_row_of_nan_has_no_largest() {
        on_a_card(check_rows_without_a_largest);
    }

    /// Tests ties within a thread's columns, between lanes and between warps. Minus infinity counts, and -0 equals 0.
    #[test]
    fn the_first_of_equals_in_any_thread() {
        on_a_card(|device| {
            let cols = 2500;
            let mut rows = vec![vec![-1.0f32; cols]; 6];
            [7, 7 + 1024, 7 + 2048].into_iter().for_each(|c| rows[0][c] = 5.0);
            [1500, 40, 41].into_iter().for_each(|c| rows[1][c] = 5.0);
            [1024, 1023].into_iter().for_each(|c| rows[2][c] = 5.0);
            rows[3] = vec![f32::NEG_INFINITY; cols];
            rows[3][0] = f32::NAN;
            rows[4][2499] = 0.0;
            rows[4][1200] = -0.0;
            rows[5][1025] = f32::INFINITY;
            rows[5][3] = f32::INFINITY;
            for left_out in [vec![], vec![3, 7, 40, 1023, 2499]] {
                let want: Vec<u32> = rows.iter().map(|row| reference::argmax(row, &left_out)).collect();
                let x = device.upload("x", &rows.concat()).unwrap();
                let left_out = device.upload_indices("left_out", &left_out).unwrap();
                let mut y = device.zeros::<u32>("y", rows.len()).unwrap();
                let (x, left_out, rows) = (x.view(), left_out.view(), rows.len());
                Argmax { rows, cols, x, left_out, y: y.view_mut() }.run(device).unwrap();
                assert_eq!(y.download().unwrap(), want);
            }
        });
    }

    #[test]
    fn a_row_beyond_32_bits_has_a_place_of_its_own() {
        let Some(card) = Card::vast(1) else { return };
        let (rows, cols) = ((1 << 16) + 1, 1 << 16);
        let mut x = card.alloc::<f32>("x", rows * cols).unwrap();
        put(&mut x, (rows - 1) * cols + 777, &[5.0]);
        let (none, mut y) = (card.upload_indices("none", &[]).unwrap(), card.alloc::<u32>("y", rows).unwrap());
        Argmax { rows, cols, x: x.view(), left_out: none.view(), y: y.view_mut() }.run(&card).unwrap();
        assert_eq!(get(&y, rows - 1..rows), [777]);
        card.assert_silent();
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let device = Device::cpu(Some(1)).unwrap();
    let (x, mut y) = (device.zeros::<f32>("x", 6).unwrap(), device.zeros::<u32>("y", 3).unwrap());
    let none = device.upload_indices("none", &[]).unwrap();
    let error =
        Argmax { rows: 2, cols: 3, x: x.view(), left_out: none.view(), y: y.view_mut() }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "argmax", argument: "y", got: 3, want: 2 });
    assert!(Argmax { rows: 3, cols: 0, x: x.view(), left_out: none.view(), y: y.view_mut() }.run(&device).is_err());
}
