//! Tests that broken adapters are refused: tables of faults, each with the error that must name it.

mod configuration;
mod files;
mod tensors;

use super::*;
use configuration::CONFIG_FAULTS;
use std::path::PathBuf;
use tensors::TENSOR_FAULTS;

struct Fault {
    what: &'static str,
    spoil: fn(&mut Spoilt),
    expected: fn(&AdapterError) -> bool,
    /// Strings that the error message must contain.
    says: &'static [&'static str],
}

/// Returns the configuration's fault in an error. `None` for any other error.
fn config(error: &AdapterError) -> Option<&ConfigFault> {
    match error {
        AdapterError::Config { fault, .. } => Some(fault),
        _ => None,
    }
}

const MODULE: &str = "model.layers.1.self_attn.k_proj";

fn a() -> String {
    format!("base_model.model.{MODULE}.lora_A.weight")
}

fn b() -> String {
    format!("base_model.model.{MODULE}.lora_B.weight")
}

fn push(files: &mut Spoilt, name: &str, shape: &[usize]) {
    files.tensors.push(RawTensor::f32(name, shape, &vec![0.5; shape.iter().product()]));
}

fn check(error: &AdapterError, what: &str, expected: fn(&AdapterError) -> bool, says: &[&str]) {
    let message = error.to_string();
    assert!(expected(error), "{what}: {error:?}");
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
    }
}

#[test]
fn broken_adapters_are_refused_with_the_fault_named() {
    let model = load_model(&tiny_model("tiny-llama"));
    let sound = goldens().join("tiny-llama/adapter");
    // the table proves nothing unless a copy without a fault is accepted
    Adapter::load(&model, Spoilt::copy_of(&sound).write().path()).unwrap();
    for fault in CONFIG_FAULTS.iter().chain(TENSOR_FAULTS) {
        let mut files = Spoilt::copy_of(&sound);
        (fault.spoil)(&mut files);
        let dir = files.write();
        let error = Adapter::load(&model, dir.path()).expect_err(fault.what);
        check(&error, fault.what, fault.expected, fault.says);
        let file = if config(&error).is_some() { "adapter_config.json" } else { "adapter_model.safetensors" };
        assert!(error.to_string().contains(dir.path().join(file).to_str().unwrap()), "{}: {error}", fault.what);
    }
}

#[test]
fn the_adapter_of_another_model_is_refused() {
    let all: Vec<(Model, PathBuf)> =
        golden_adapters().into_iter().map(|(model, adapter)| (load_model(&model), adapter)).collect();
    let mut refused = 0;
    for (model, own) in &all {
        for (other, adapter) in &all {
            // models of the same shape cannot be told apart by their adapters
            if model.linears() == other.linears() {
                continue;
            }
            let error = Adapter::load(model, adapter).expect_err("an adapter for other shapes");
            let expected = matches!(
                error,
                AdapterError::Unmatched { .. }
                    | AdapterError::Misnamed { .. }
                    | AdapterError::Shape { .. }
                    | AdapterError::NotInFile { .. }
                    | AdapterError::Config { fault: ConfigFault::NothingMatches { .. }, .. }
            );
            assert!(expected, "{} on the model of {}: {error}", adapter.display(), own.display());
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
}
