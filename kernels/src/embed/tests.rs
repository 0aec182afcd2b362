//! Embedding against the reference and against the rows of the table, and refused calls.

use super::*;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;
use half::bf16;

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, put};
    use half::f16;

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// Widening is exact, so there is no tolerance.
    #[test]
    fn rows_are_those_of_the_table() {
        let card = Card::checked();
        let (hidden_size, vocab_size) = (45, 37);
        let ids: Vec<u32> = (0..100).map(|i| i * 7 % vocab_size as u32).collect();
        // every 37th f16 that is not NaN: subnormal numbers are among them
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| !x.is_nan()).collect();
        let halves: Vec<f16> = halves.into_iter().step_by(37).take(vocab_size * hidden_size).collect();
        let brains = Inputs::of(&[hidden_size, vocab_size]).normal_bf16(vocab_size * hidden_size, 1.0);
        let check = |table: WeightSlice<'_>, wide: Vec<f32>| {
            let rows = ids.len();
            let ids_on_card = card.upload_indices("ids", &ids).unwrap();
            let mut y = card.alloc("y", rows * hidden_size).unwrap();
            Forward { rows, hidden_size, vocab_size, ids: ids_on_card.view(), table, scale: 1.0, y: y.view_mut() }
                .run(&card)
                .unwrap();
            let want: Vec<f32> =
                ids.iter().flat_map(|&id| wide[id as usize * hidden_size..][..hidden_size].to_vec()).collect();
            assert_eq!(y.download().unwrap(), want);
        };
        let table = card.upload("table", &halves).unwrap();
        check(WeightSlice::F16(table.view()), halves.iter().map(|x| x.to_f32()).collect());
        let table = card.upload("table", &brains).unwrap();
        check(WeightSlice::Bf16(table.view()), brains.iter().map(|x| x.to_f32()).collect());
        card.assert_silent();
    }

    /// Tests the last row of the table, and the last row of the output.
    #[test]
    fn a_row_beyond_32_bits_has_a_place_of_its_own() {
        let Some(card) = Card::vast(1) else { return };
        let (rows, hidden_size, vocab_size) = ((1 << 16) + 1, 1 << 16, (1 << 16) + 1);
        let last = (rows - 1) * hidden_size..rows * hidden_size;
        let (ids, values) = (vec![vocab_size as u32 - 1; rows], Inputs::of(&[rows]).normal(hidden_size, 1.0));
        let ids = card.upload_indices("ids", &ids).unwrap();
        let mut table = card.alloc::<f32>("table", vocab_size * hidden_size).unwrap();
        put(&mut table, last.start, &values);
        let mut y = card.alloc::<f32>("y", rows * hidden_size).unwrap();
        let (ids, table) = (ids.view(), WeightSlice::F32(table.view()));
        Forward { rows, hidden_size, vocab_size, ids, table, scale: 1.0, y: y.view_mut() }.run(&card).unwrap();
        assert!(get(&y, last) == values);
        card.assert_silent();
    }
}

/// Widening is exact, so there is no tolerance. The rows are three blocks, which up to three threads share.
#[test]
fn rows_are_those_of_the_table_whatever_the_thread_count() {
    let (rows, hidden_size, vocab_size) = (1000, 45, 37);
    let mut inputs = Inputs::of(&[rows, hidden_size, vocab_size]);
    let ids: Vec<u32> = (0..rows).map(|_| inputs.below(vocab_size) as u32).collect();
    let table: Vec<bf16> = inputs.normal_bf16(vocab_size * hidden_size, 1.0);
    let want: Vec<f32> = ids
        .iter()
        .flat_map(|&id| table[id as usize * hidden_size..][..hidden_size].iter().map(|x| x.to_f32()))
        .collect();
    for isa in Isa::available() {
        for threads in [1, 2, 3] {
            let device = Device::cpu_with(Some(threads), isa).unwrap();
            let (ids, table) = (device.upload_indices("ids", &ids).unwrap(), device.upload("table", &table).unwrap());
            let mut y = device.alloc("y", rows * hidden_size).unwrap();
            let table = WeightSlice::Bf16(table.view());
            Forward { rows, hidden_size, vocab_size, ids: ids.view(), table, scale: 1.0, y: y.view_mut() }
                .run(&device)
                .unwrap();
            assert_eq!(y.download().unwrap(), want, "{threads} threads, {}", isa.name());
        }
    }
}

#[test]
fn ids_beyond_the_vocabulary_and_wrong_lengths_are_refused() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (ids, table) = (device.upload_indices("ids", &[0, 4]).unwrap(), device.zeros::<f32>("table", 12).unwrap());
    let mut y = device.zeros("y", 6).unwrap();
    let mut error = |rows, vocab_size| {
        let table = table.view().into();
        Forward { rows, hidden_size: 3, vocab_size, ids: ids.view(), table, scale: 1.0, y: y.view_mut() }
            .run(&device)
            .unwrap_err()
    };
    assert_eq!(error(2, 4), KernelError::TokenId { kernel: "embed", row: 1, id: 4, vocab_size: 4 });
    assert_eq!(error(2, 5), KernelError::Shape { kernel: "embed", argument: "table", got: 12, want: 15 });
    assert_eq!(error(3, 4), KernelError::Shape { kernel: "embed", argument: "ids", got: 2, want: 3 });
}
