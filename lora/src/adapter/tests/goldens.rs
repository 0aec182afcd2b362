//! Tests that adapters of PEFT 0.21 (`tests/goldens/`) are read and written again unchanged, and that modules are chosen as PEFT
//! chooses them. Also tests fresh adapters.

use super::*;
use align_engine::model::ModelConfig;
use align_engine::weights::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use tempfile::TempDir;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Returns the names and bits of all parameters, in their order.
fn values(adapter: &Adapter) -> Vec<(String, Vec<u32>)> {
    adapter.params().map(|(key, param)| (key, bits(&param.read().download().unwrap()))).collect()
}

/// Sorts the lists of modules in a configuration. They are sets to PEFT, which writes them in any order.
fn as_sets(config: &Value) -> Value {
    let mut config = config.clone();
    for key in ["target_modules", "exclude_modules"] {
        if let Value::Array(names) = &mut config[key] {
            names.sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
    }
    config
}

#[test]
fn every_golden_adapter_is_read_and_written_again_as_peft_wrote_it() {
    for (model, dir) in golden_adapters() {
        let model = load_model(&model);
        let adapter = Adapter::load(&model, &dir).unwrap();
        let copy = TempDir::new().unwrap();
        adapter.save(&copy.path().join("in/a/new/folder")).unwrap();
        let copy = copy.path().join("in/a/new/folder");
        let file = "adapter_model.safetensors";
        // PEFT writes f32, sorts by name, and pads the header to 8 bytes, as this program does, so the files are equal to the
        // byte
        assert!(
            std::fs::read(copy.join(file)).unwrap() == std::fs::read(dir.join(file)).unwrap(),
            "{}: other bytes",
            dir.display()
        );
        let (ours, theirs) = (json(&copy.join("adapter_config.json")), json(&dir.join("adapter_config.json")));
        assert_eq!(as_sets(&ours), as_sets(&theirs), "{}", dir.display());
        // the keys are in the same order, also those inside rank_pattern
        let text = serde_json::to_string_pretty(&as_sets(&theirs)).unwrap();
        assert_eq!(std::fs::read_to_string(copy.join("adapter_config.json")).unwrap(), text, "{}", dir.display());
        let again = Adapter::load(&model, &copy).unwrap();
        assert_eq!(values(&again), values(&adapter));
        assert_eq!(again.config().scaling(3, 1.0).to_bits(), adapter.config().scaling(3, 1.0).to_bits());
    }
}

#[test]
fn parameters_are_the_tensors_of_the_file_in_the_models_order() {
    for (model, dir) in golden_adapters() {
        let model = load_model(&model);
        let adapter = Adapter::load(&model, &dir).unwrap();
        let (tensors, metadata) = read_tensors(&dir.join("adapter_model.safetensors"));
        assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
        assert_eq!(adapter.params().count(), tensors.len());
        for (at, (key, param)) in adapter.params().enumerate() {
            let tensor = tensors.iter().find(|tensor| tensor.name == key).unwrap();
            assert_eq!(param.id(), ParamId(at));
            assert_eq!(param.shape().to_vec(), tensor.shape, "{key}");
            let stored: Vec<u32> = tensor.bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
            assert_eq!(bits(&param.read().download().unwrap()), stored, "{key}");
        }
        let elements: usize = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(adapter.trainable_parameters(), elements);
        let mut ids = adapter.set().iter().map(|(id, _)| id);
        assert!(ids.by_ref().is_sorted());
    }
}

#[test]
fn ranks_and_scalings_are_those_that_peft_used() {
    let mut checked = 0;
    for (model, dir) in golden_adapters() {
        let meta = json(&dir.join("../meta.json"));
        let Some(modules) = meta["modules"].as_object() else { continue };
        let model = load_model(&model);
        let adapter = Adapter::load(&model, &dir).unwrap();
        let mut seen = BTreeSet::new();
        for (id, update) in adapter.set().iter() {
            let name = &model.linears()[id.0].name;
            let facts = modules.get(name).unwrap_or_else(|| panic!("{}: {name} is not adapted", dir.display()));
            assert_eq!(update.lora_a.shape()[0] as u64, facts["rank"].as_u64().unwrap(), "{name}");
            // PEFT's scaling is the quotient in f64; ours is that quotient, rounded to f32
            assert_eq!(update.scaling, facts["scaling"].as_f64().unwrap() as f32, "{name}");
            seen.insert(name.clone());
        }
        assert_eq!(seen, modules.keys().cloned().collect(), "{}", dir.display());
        checked += seen.len();
    }
    assert!(checked > 60, "{checked} modules: are the cases of tests/goldens/extra there?");
}

#[test]
fn modules_are_chosen_as_peft_chooses_them() {
    let table = json(&goldens().join("extra/targets.json"));
    for item in table["items"].as_array().unwrap() {
        let model = item["model"].as_str().unwrap();
        let config = ModelConfig::open(&tiny_model(model)).unwrap();
        let names: Vec<String> = config.linears().into_iter().map(|linear| linear.name).collect();
        let modules = Modules { linears: names.iter().map(String::as_str).collect(), prefix: config.module_prefix };
        let mut object = Map::from_iter([("peft_type".to_owned(), Value::from("LORA"))]);
        for key in ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"] {
            object.insert(key.to_owned(), item.get(key).cloned().unwrap_or(Value::Null));
        }
        let config = LoraConfig::from_json(&object);
        let chosen = config.as_ref().map_err(Clone::clone).and_then(|config| config.choose(&modules));
        let Some(error) = item.get("error") else {
            let chosen = chosen.unwrap_or_else(|fault| panic!("{item}: {fault}"));
            let ours: BTreeSet<&str> = chosen.iter().map(|choice| modules.linears[choice.linear]).collect();
            let theirs = item["modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(ours, theirs, "{}", item["target_modules"]);
            continue;
        };
        let error = error.as_str().unwrap();
        let fault = chosen.expect_err(error);
        let expected = match &fault {
            ConfigFault::NeedsList { .. } => error.contains("cannot be used when `target_modules` is a str"),
            ConfigFault::PatternAlone => error.contains("`layers_to_transform` must also be specified"),
            ConfigFault::NothingMatches { .. } => {
                error.contains("NoMatchingPeftModuleError") || error.contains("Please specify `target_modules`")
            }
            _ => false,
        };
        assert!(expected, "{item}: {fault}");
    }
}

#[test]
fn all_linear_is_written_as_the_list_that_it_stands_for() {
    for (model, last_parts) in [
        ("tiny-llama", "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj"),
        ("tiny-phi3", "down_proj,gate_up_proj,o_proj,qkv_proj"),
    ] {
        let model = load_model(&tiny_model(model));
        let adapter = Adapter::fresh(&model, &LoraConfig::default(), 0).unwrap();
        assert_eq!(adapter.config().target_modules.to_string(), last_parts);
        assert_eq!(adapter.set().iter().count(), model.linears().len());
        // the written list chooses the same modules when it is read
        let dir = TempDir::new().unwrap();
        adapter.save(dir.path()).unwrap();
        assert_eq!(Adapter::load(&model, dir.path()).unwrap().set().iter().count(), model.linears().len());
    }
    // a vision tower beside the decoder may have its own q_proj
    let names = ["model.language_model.layers.0.self_attn.q_proj", "model.language_model.layers.0.mlp.up_proj"];
    let modules = Modules { linears: names.to_vec(), prefix: "model.language_model." };
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(targets::spelled_out(&modules), expected);
}

#[test]
fn a_fresh_adapter_is_small_uniform_noise_times_zero() {
    let model = load_model(&tiny_model("tiny-llama"));
    let config = LoraConfig { rank: 64, alpha: 32.0, ..LoraConfig::default() };
    let adapter = Adapter::fresh(&model, &config, 7).unwrap();
    for (id, update) in adapter.set().iter() {
        let linear = &model.linears()[id.0];
        assert_eq!(update.lora_a.shape(), [64, linear.in_features]);
        assert_eq!(update.lora_b.shape(), [linear.out_features, 64]);
        assert_eq!(update.scaling, 0.5);
        assert!(update.lora_b.read().download().unwrap().iter().all(|value| value.to_bits() == 0));
        let a = update.lora_a.read().download().unwrap();
        let n = a.len() as f64;
        let bound = 1.0 / (linear.in_features as f64).sqrt();
        assert!(a.iter().all(|&value| f64::from(value).abs() <= bound * (1.0 + 1e-6)), "{}", linear.name);
        // uniform on (-b, b): mean 0 with variance b^2 / 3n, mean square b^2 / 3 with variance 4 b^4 / 45n; the bounds are six
        // standard deviations
        let mean = a.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
        let square = a.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 6.0 * bound / (3.0 * n).sqrt(), "{}: mean {mean}", linear.name);
        assert!(
            (square - bound * bound / 3.0).abs() < 6.0 * bound * bound * (4.0 / (45.0 * n)).sqrt(),
            "{}",
            linear.name
        );
    }
    assert_eq!(values(&adapter), values(&Adapter::fresh(&model, &config, 7).unwrap()), "same seed, same bits");
    let other = values(&Adapter::fresh(&model, &config, 8).unwrap());
    assert!(values(&adapter).iter().zip(&other).all(|(one, other)| one.0.contains("lora_B") || one.1 != other.1));
    // the values of a module do not depend on which other modules are targeted
    let only_v = LoraConfig { target_modules: "v_proj".parse().unwrap(), ..config };
    let only_v = values(&Adapter::fresh(&model, &only_v, 7).unwrap());
    assert_eq!(only_v.len(), 8);
    assert!(only_v.iter().all(|tensor| values(&adapter).contains(tensor)));
}

#[test]
fn a_snapshot_keeps_the_values_that_training_changes() {
    let model = load_model(&tiny_model("tiny-qwen2"));
    let adapter = Adapter::load(&model, &goldens().join("tiny-qwen2/adapter")).unwrap();
    let before = values(&adapter);
    let snapshot = adapter.snapshot().unwrap();
    for (_, param) in adapter.params() {
        param.write().view_mut().fill(0.25).unwrap();
    }
    let kept: Vec<Vec<u32>> = snapshot.params().iter().map(|param| bits(&param.read().download().unwrap())).collect();
    assert_eq!(kept, before.iter().map(|(_, values)| values.clone()).collect::<Vec<_>>());
    assert!(values(&adapter).iter().all(|(_, values)| values.iter().all(|&value| value == 0.25f32.to_bits())));
    let scalings = |set: &AdapterSet| set.iter().map(|(id, update)| (id, update.scaling)).collect::<Vec<_>>();
    assert_eq!(scalings(&snapshot), scalings(adapter.set()));
}

#[test]
fn values_in_16_bits_are_widened() {
    let (model, dir) = (load_model(&tiny_model("tiny-llama")), goldens().join("tiny-llama/adapter"));
    let exact = Adapter::load(&model, &dir).unwrap();
    type Narrow = fn(f32) -> ([u8; 2], f32);
    let bf16: Narrow = |value| (half::bf16::from_f32(value).to_le_bytes(), half::bf16::from_f32(value).to_f32());
    let f16: Narrow = |value| (half::f16::from_f32(value).to_le_bytes(), half::f16::from_f32(value).to_f32());
    for (dtype, narrow) in [(Dtype::BF16, bf16), (Dtype::F16, f16)] {
        let mut copy = Spoilt::copy_of(&dir);
        for tensor in &mut copy.tensors {
            let values = tensor.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            tensor.bytes = values.flat_map(|value| narrow(value).0).collect();
            tensor.dtype = dtype;
        }
        let adapter = Adapter::load(&model, copy.write().path()).unwrap();
        for ((key, param), (_, exact)) in adapter.params().zip(exact.params()) {
            let rounded: Vec<f32> = exact.read().download().unwrap().into_iter().map(|value| narrow(value).1).collect();
            assert_eq!(param.read().download().unwrap(), rounded, "{key} {dtype}");
        }
    }
}

#[test]
fn a_whole_alpha_is_written_as_an_integer_and_any_is_read() {
    for (written, read, again) in [("16", 16.0, "16"), ("16.0", 16.0, "16"), ("0.5", 0.5, "0.5"), ("1e2", 100.0, "100")]
    {
        let text =
            format!(r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": {written}, "alpha_pattern": {{"v": {written}}}}}"#);
        let object: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let config = LoraConfig::from_json(&object).unwrap();
        assert_eq!(config.alpha, read);
        assert_eq!(config.to_json()["lora_alpha"].to_string(), again);
        assert_eq!(config.to_json()["alpha_pattern"]["v"].to_string(), again);
    }
}

#[test]
fn a_file_with_the_few_keys_that_matter_is_enough() {
    let object: Map<String, Value> = serde_json::from_str(
        r#"{"peft_type": "LORA", "r": 4, "target_modules": "ALL-linear", "future_key": null, "another": [], "third": false}"#,
    )
    .unwrap();
    let config = LoraConfig::from_json(&object).unwrap();
    assert_eq!((config.rank, config.alpha, config.dropout), (4, 8.0, 0.0));
    assert_eq!(config.target_modules, Targets::AllLinear);
}

#[test]
fn the_first_pattern_of_the_file_decides_and_keeps_its_place() {
    // the keys must not be sorted: a program that reads the written file must find the same first match
    let text = r#"{"peft_type": "LORA", "r": 4, "rank_pattern": {"v_proj": 2, "self_attn.v_proj": 3, "k_proj": 5}}"#;
    let config = LoraConfig::from_json(&serde_json::from_str(text).unwrap()).unwrap();
    let config = LoraConfig { target_modules: "k_proj,v_proj".parse().unwrap(), ..config };
    let modules = Modules {
        linears: vec!["model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj"],
        prefix: "model.",
    };
    let ranks = |config: &LoraConfig| config.choose(&modules).unwrap().iter().map(|c| c.rank).collect::<Vec<_>>();
    assert_eq!(ranks(&config), [5, 2]);
    assert_eq!(ranks(&LoraConfig::from_json(&config.to_json()).unwrap()), [5, 2]);
}
