//! Tests of the options of a fresh adapter, as the library and the command line accept them.

use super::*;

#[test]
fn options_that_make_no_adapter_are_refused() {
    let model = load_model(&tiny_model("tiny-llama"));
    let refuse = |config: LoraConfig| match Adapter::fresh(&model, &config, 0) {
        Err(AdapterError::Options(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let plain = LoraConfig::default();
    assert!(matches!(refuse(LoraConfig { rank: 0, ..plain.clone() }), ConfigFault::Value { key, .. } if key == "r"));
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let fault = refuse(LoraConfig { alpha, ..plain.clone() });
        assert!(matches!(fault, ConfigFault::Value { key, .. } if key == "lora_alpha"));
    }
    for dropout in [1.0, -0.1, f64::NAN] {
        let fault = refuse(LoraConfig { dropout, ..plain.clone() });
        assert!(matches!(fault, ConfigFault::Value { key, .. } if key == "lora_dropout"));
    }
    let target_modules: Targets = "q_prj,v_prj".parse().unwrap();
    let message = refuse(LoraConfig { target_modules, ..plain }).to_string();
    assert!(message.contains("q_prj") && message.contains("model.layers.N.mlp.gate_proj"), "{message}");
}

#[test]
fn the_command_lines_targets_are_read_as_documented() {
    let list = |names: &[&str]| Targets::Named(ModuleNames::List(names.iter().map(|&name| name.to_owned()).collect()));
    let regex = |pattern: &str| Targets::Named(ModuleNames::Regex(pattern.to_owned()));
    for (text, expected) in [
        ("all-linear", Targets::AllLinear),
        ("All-Linear", Targets::AllLinear),
        ("q_proj", list(&["q_proj"])),
        ("q_proj,v_proj", list(&["q_proj", "v_proj"])),
        ("q_proj, v_proj", list(&["q_proj", "v_proj"])),
        ("layers.0.self_attn.q_proj,mlp.up_proj", list(&["layers.0.self_attn.q_proj", "mlp.up_proj"])),
        (r".*\.q_proj", regex(r".*\.q_proj")),
        ("q_proj|v_proj", regex("q_proj|v_proj")),
        (r".*\.(?!0\.)\d+\.mlp\.\w{1,9}", regex(r".*\.(?!0\.)\d+\.mlp\.\w{1,9}")),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    assert!(matches!("(q_proj".parse::<Targets>(), Err(ConfigFault::Pattern { .. })));
}
