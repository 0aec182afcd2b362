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

#[test]
fn a_row_of_nan_has_no_largest() {
    let device = Device::cpu(Some(1)).unwrap();
    let x = device.upload("x", &[f32::NAN; 40]).unwrap();
    let mut y = device.zeros::<u32>("y", 2).unwrap();
    let none = device.upload_indices("none", &[]).unwrap();
    Argmax { rows: 2, cols: 20, x: x.view(), left_out: none.view(), y: y.view_mut() }.run(&device).unwrap();
    assert_eq!(y.download(), [NONE; 2]);
    let all = device.upload_indices("all", &(0..20).collect::<Vec<_>>()).unwrap();
    Argmax { rows: 2, cols: 20, x: device.zeros("x", 40).unwrap().view(), left_out: all.view(), y: y.view_mut() }
        .run(&device)
        .unwrap();
    assert_eq!(y.download(), [NONE; 2]);
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
