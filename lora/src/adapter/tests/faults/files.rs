//! Tests of folders that lack a file or have an unreadable one, and of values that must not be written.

use super::*;
use align_engine::weights::{HeaderFault, LoadError};

#[test]
fn broken_files_are_refused_with_the_fault_named() {
    let model = load_model(&tiny_model("tiny-llama"));
    type Spoil = fn(&Path);
    fn cut(dir: &Path) {
        let path = dir.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    }
    type Row = (&'static str, Spoil, fn(&AdapterError) -> bool, &'static [&'static str]);
    let table: [Row; 9] = [
        (
            "no configuration",
            |dir| std::fs::remove_file(dir.join("adapter_config.json")).unwrap(),
            |error| {
                matches!(error, AdapterError::NoFile { file: "adapter_config.json", instead: Instead::Nothing, .. })
            },
            &["adapter_config.json"],
        ),
        (
            "no values",
            |dir| std::fs::remove_file(dir.join("adapter_model.safetensors")).unwrap(),
            |error| {
                matches!(
                    error,
                    AdapterError::NoFile { file: "adapter_model.safetensors", instead: Instead::Nothing, .. }
                )
            },
            &["adapter_model.safetensors"],
        ),
        (
            "values in a pickle",
            |dir| {
                std::fs::rename(dir.join("adapter_model.safetensors"), dir.join("adapter_model.bin")).unwrap();
            },
            |error| matches!(error, AdapterError::NoFile { instead: Instead::Pickle, .. }),
            &["adapter_model.bin", "PEFT"],
        ),
        (
            "broken JSON",
            |dir| std::fs::write(dir.join("adapter_config.json"), "{\"r\": 8,").unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::Parse { .. })),
            &["adapter_config.json", "broken JSON", "line 1"],
        ),
        (
            "deep JSON",
            |dir| std::fs::write(dir.join("adapter_config.json"), "[".repeat(100_000)).unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::Parse { .. })),
            &["adapter_config.json"],
        ),
        (
            "a list",
            |dir| std::fs::write(dir.join("adapter_config.json"), "[]").unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::NotAnObject { .. })),
            &["adapter_config.json", "a list"],
        ),
        (
            "truncated values",
            cut,
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::Truncated { .. })
            },
            &["adapter_model.safetensors", "truncated"],
        ),
        (
            "no bytes",
            |dir| std::fs::write(dir.join("adapter_model.safetensors"), "").unwrap(),
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::TooShort { bytes: 0 })
            },
            &["adapter_model.safetensors"],
        ),
        (
            "a pointer of git-lfs in place of the values",
            |dir| {
                let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
                std::fs::write(dir.join("adapter_model.safetensors"), pointer).unwrap();
            },
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::Length { .. })
            },
            &["adapter_model.safetensors"],
        ),
    ];
    for (what, spoil, expected, says) in table {
        let dir = Spoilt::copy_of(&goldens().join("tiny-llama/adapter")).write();
        spoil(dir.path());
        let error = Adapter::load(&model, dir.path()).expect_err(what);
        check(&error, what, expected, says);
    }
}

#[test]
fn an_adapter_that_diverged_is_not_written_over_a_sound_one() {
    let model = load_model(&tiny_model("tiny-llama"));
    let dir = Spoilt::copy_of(&goldens().join("tiny-llama/adapter")).write();
    let before = files(dir.path());
    let adapter = Adapter::load(&model, dir.path()).unwrap();
    let (key, param) = adapter.params().nth(9).unwrap();
    param.write().view_mut().fill(f32::NAN).unwrap();
    let error = adapter.save(dir.path()).unwrap_err();
    assert!(matches!(&error, AdapterError::NonFinite { tensor, .. } if *tensor == key), "{error}");
    assert!(files(dir.path()) == before);
}
