//! Tensors that `WeightFiles` returns: their values and shapes, and which tensors it refuses.

use super::*;

impl WeightFiles {
    /// Returns the total bytes of the tensors that are misaligned in their file. A device must copy these tensors.
    fn misaligned_bytes(&self) -> u64 {
        // The mapping begins at a page, so the offset in the file decides the alignment.
        self.tensors()
            .filter(|(tensor, _)| !tensor.bytes.start.is_multiple_of((tensor.dtype.bitsize() / 8).max(1)))
            .map(|(tensor, _)| tensor.bytes.len() as u64)
            .sum()
    }
}

#[test]
fn tensors_of_every_dtype_come_back_aligned_or_not() {
    let device = Device::cpu(Some(2)).unwrap();
    let values = [1.0, -2.5, 0.0, 65504.0, -0.125, 3.0];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let rounded = match dtype {
            Dtype::BF16 => values.map(|value| bf16::from_f32(value).to_f32()),
            _ => values,
        };
        for padding in 0..8 {
            let bytes = encode(dtype, &values);
            let half = bytes.len() / 2;
            let name = format!("{dtype}");
            let mut text = header(&[
                entry("matrix", &name, "[2,3]", 0, bytes.len() as u64),
                entry("vector", &name, "[3]", bytes.len() as u64, (bytes.len() + half) as u64),
            ]);
            text += &" ".repeat(padding);
            let dir = tempfile::tempdir().unwrap();
            let mut content = file(&text, 0);
            content.extend(&bytes);
            content.extend(&bytes[..half]);
            fs::write(dir.path().join("model.safetensors"), &content).unwrap();
            let files = open(dir.path()).unwrap();
            let matrix = files.frozen(&device, "matrix", [2, 3]).unwrap();
            assert_eq!(widen(matrix.view()), rounded, "{dtype} after {padding} spaces");
            assert_eq!(widen(matrix.view().range(3..6)), rounded[3..]);
            assert_eq!((matrix.shape(), matrix.name(), matrix.bytes()), ([2, 3], "matrix", bytes.len()));
            let vector = files.vector(&device, "vector", 3).unwrap();
            assert_eq!(vector.view().download().unwrap(), rounded[..3]);
            let misaligned = !(8 + text.len()).is_multiple_of(dtype.bitsize() / 8);
            assert_eq!(files.misaligned_bytes() > 0, misaligned);
            assert_eq!((files.parameters(), files.bytes()), (9, (bytes.len() + half) as u64));
        }
    }
}

/// Frozen weights stay valid after the `WeightFiles` are dropped and the file is deleted. A clone stays valid after the original is
/// dropped.
#[test]
fn frozen_weights_outlive_the_weight_files() {
    let device = Device::cpu(Some(1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("model.safetensors"), Dtype::BF16, &[("w", &[1, 2], &[1.0, 2.0])]);
    let files = open(dir.path()).unwrap();
    let weights = files.frozen(&device, "w", [1, 2]).unwrap();
    drop(files);
    drop(dir);
    let clone = weights.clone();
    drop(weights);
    assert_eq!(widen(clone.view()), [1.0, 2.0]);
    assert_eq!(device.memory().in_use, 0, "aligned weights are used in place");
}

#[test]
fn what_config_json_does_not_imply_is_refused_by_tensor() {
    let device = Device::cpu(Some(1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let text = header(&[
        entry("packed", "U8", "[2,2]", 0, 4),
        entry("w", "F32", "[1,2]", 4, 12),
        entry("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[1]", 12, 16),
    ]);
    fs::write(&path, file(&text, 16)).unwrap();
    let files = open(dir.path()).unwrap();
    let message = |result: Result<Frozen, LoadError>| result.unwrap_err().to_string();
    let absent = message(files.frozen(&device, "v", [1, 2]));
    assert!(
        absent.contains("no tensor `v`") && absent.contains("config.json") && absent.contains("[1, 2]"),
        "{absent}"
    );
    let shape = message(files.frozen(&device, "w", [2, 1]));
    assert!(
        shape.contains("`w` is [1, 2], config.json implies [2, 1]") && shape.contains("model.safetensors"),
        "{shape}"
    );
    let packed = message(files.frozen(&device, "packed", [2, 2]));
    assert!(packed.contains("`packed` is stored as U8; supported: F32, F16, BF16"), "{packed}");
    assert!(files.vector(&device, "w", 2).unwrap_err().to_string().contains("config.json implies [2]"));
}

#[test]
fn values_that_are_not_finite_are_refused_by_tensor_and_element() {
    let device = Device::cpu(Some(2)).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let dir = tempfile::tempdir().unwrap();
            let mut values = vec![0.5; 600];
            values[427] = value;
            let tensors: [(&str, &[usize], &[f32]); 3] =
                [("good", &[20, 30], &[0.5; 600]), ("bad", &[20, 30], &values), ("zero", &[1, 2], &[0.0, -0.0])];
            write(&dir.path().join("model.safetensors"), dtype, &tensors);
            let files = open(dir.path()).unwrap();
            files.frozen(&device, "good", [20, 30]).unwrap();
            files.frozen(&device, "zero", [1, 2]).unwrap();
            assert_eq!(files.all_zero(), ["zero"]);
            let message = files.frozen(&device, "bad", [20, 30]).unwrap_err().to_string();
            assert!(message.contains(&format!("`bad` holds {said} at element 427")), "{message}");
            let unchecked = WeightFiles::open(dir.path(), ValueCheck::Skip).unwrap();
            unchecked.frozen(&device, "bad", [20, 30]).unwrap();
        }
    }
}
