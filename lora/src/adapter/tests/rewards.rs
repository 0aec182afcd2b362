//! Tests that adapters of reward models are written and read, and that they are refused if they are broken or if log-probs are
//! needed.

use super::*;
use serde_json::json as value;

const SCORE: &str = "base_model.model.score.weight";

/// Returns tiny-llama, and its golden adapter with a score head added.
fn reward_model() -> (Model, Spoilt) {
    let model = load_model(&tiny_model("tiny-llama"));
    let mut files = Spoilt::copy_of(&goldens().join("tiny-llama/adapter"));
    let hidden_size = model.config().hidden_size;
    let head: Vec<f32> = (0..hidden_size).map(|i| i as f32 / 7.0 - 3.0).collect();
    files.tensors.push(RawTensor::f32(SCORE, &[1, hidden_size], &head));
    files.config["task_type"] = value!("SEQ_CLS");
    files.config["modules_to_save"] = value!(["score"]);
    (model, files)
}

fn values(adapter: &Adapter) -> Vec<(String, [usize; 2], Vec<f32>)> {
    adapter.params().map(|(key, param)| (key, param.shape(), param.read().download().unwrap())).collect()
}

#[test]
fn a_reward_model_is_read_as_it_was_written() {
    let model = load_model(&tiny_model("tiny-qwen2"));
    let hidden_size = model.config().hidden_size;
    let config = LoraConfig { task: Task::SequenceClassification, ..LoraConfig::default() };
    let fresh = Adapter::fresh(&model, &config, 3).unwrap();
    let last = values(&fresh).pop().unwrap();
    assert_eq!(last, (SCORE.to_owned(), [1, hidden_size], vec![0.0; hidden_size]), "the head comes last and is zero");
    let plain = Adapter::fresh(&model, &LoraConfig::default(), 3).unwrap();
    assert_eq!(fresh.trainable_parameters(), plain.trainable_parameters() + hidden_size);
    assert_eq!(values(&fresh)[..values(&plain).len()], values(&plain), "the updates are those of a language model");

    let head = fresh.set().score_head().unwrap();
    let moved: Vec<f32> = (0..hidden_size).map(|i| (i as f32).sin()).collect();
    *head.write() = model.device().upload("test", &moved).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fresh.save(dir.path()).unwrap();
    let read = Adapter::load_for(&model, dir.path(), Some(Task::SequenceClassification)).unwrap();
    assert_eq!(values(&read), values(&fresh));
    assert_eq!(read.config(), fresh.config());
    assert_eq!(values(&Adapter::load_for(&model, dir.path(), None).unwrap()), values(&fresh));
    let config = json(&dir.path().join("adapter_config.json"));
    assert_eq!((&config["task_type"], &config["modules_to_save"]), (&value!("SEQ_CLS"), &value!(["score"])));

    let snapshot = read.snapshot().unwrap();
    *read.set().score_head().unwrap().write() = model.device().upload("test", &vec![0.5; hidden_size]).unwrap();
    assert_eq!(snapshot.score_head().unwrap().read().download().unwrap(), moved, "a snapshot keeps its own head");
}

/// PEFT adds its two names for a classifier's head to the list that the user gave.
#[test]
fn the_heads_names_are_read_as_peft_writes_them() {
    for names in [value!(["classifier", "score"]), value!(["score", "classifier", "score"]), value!(null)] {
        let (model, mut files) = reward_model();
        files.config["modules_to_save"] = names;
        let read = Adapter::load_for(&model, files.write().path(), Some(Task::SequenceClassification)).unwrap();
        assert_eq!(read.set().score_head().unwrap().shape(), [1, model.config().hidden_size]);
    }
}

type Spoil = fn(&mut Spoilt);

#[test]
fn broken_reward_models_are_refused_with_the_fault_named() {
    let cases: &[(&str, Spoil, &[&str])] = &[
        ("no head", |files| drop(files.tensors.pop()), &["adapter_model.safetensors", SCORE, "is missing", "SEQ_CLS"]),
        (
            "two labels",
            |files| *files.tensor(SCORE) = RawTensor::f32(SCORE, &[2, 64], &[0.5; 128]),
            &[SCORE, "[2, 64]", "[1, 64]", "several labels"],
        ),
        (
            "another model's",
            |files| *files.tensor(SCORE) = RawTensor::f32(SCORE, &[1, 32], &[0.5; 32]),
            &[SCORE, "[1, 32]", "[1, 64]"],
        ),
        ("a vector", |files| *files.tensor(SCORE) = RawTensor::f32(SCORE, &[64], &[0.5; 64]), &[SCORE, "[64]"]),
        (
            "NaN",
            |files| {
                let mut head = vec![0.5; 64];
                head[9] = f32::NAN;
                *files.tensor(SCORE) = RawTensor::f32(SCORE, &[1, 64], &head);
            },
            &[SCORE, "NaN", "element 9"],
        ),
        (
            "a bias",
            |files| files.tensors.push(RawTensor::f32("base_model.model.score.bias", &[1], &[0.5])),
            &["score.bias"],
        ),
        (
            "another module beside the head",
            |files| files.config["modules_to_save"] = value!(["score", "lm_head"]),
            &["modules_to_save", "lm_head"],
        ),
        (
            "modules without the head",
            |files| files.config["modules_to_save"] = value!(["classifier"]),
            &["modules_to_save", "classifier"],
        ),
        (
            "the head as a running model has it",
            |files| {
                files.tensor("base_model.model.score.weight").name =
                    "base_model.model.score.modules_to_save.default.weight".to_owned();
            },
            &["`modules_to_save.default.` does not belong in it", "PEFT reads `base_model.model.score.weight`"],
        ),
        (
            "the head with the adapter's name",
            |files| {
                files.tensor("base_model.model.score.weight").name = "base_model.model.score.default.weight".to_owned();
            },
            &["`default.` does not belong in it"],
        ),
        (
            "a name that is none",
            |files| files.config["modules_to_save"] = value!(["score", 3]),
            &["modules_to_save", "3"],
        ),
    ];
    let (model, sound) = reward_model();
    assert_eq!(model.config().hidden_size, 64);
    Adapter::load_for(&model, sound.write().path(), Some(Task::SequenceClassification)).unwrap();
    for (what, spoil, says) in cases {
        let (_, mut files) = reward_model();
        spoil(&mut files);
        let message = Adapter::load_for(&model, files.write().path(), Some(Task::SequenceClassification))
            .expect_err(what)
            .to_string();
        for part in *says {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
}

#[test]
fn each_kind_of_adapter_is_refused_in_the_others_place() {
    let (model, mut files) = reward_model();
    let dir = files.write();
    let error = Adapter::load(&model, dir.path()).unwrap_err();
    assert!(matches!(error, AdapterError::Task { needed: Task::CausalLm, .. }), "{error:?}");
    for part in ["adapter_config.json", "SEQ_CLS", "no log-probs"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let out = dir.path().join("merged");
    let base = tiny_model("tiny-llama");
    let merge =
        Merge { model: &base, adapter: dir.path(), output: &out, existing: Existing::Keep, chat_template: None };
    let error = merge.run(&device(), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("no place in a language model"), "{error}");
    assert!(!out.exists());

    // the tensor of a score head alone does not make a reward model
    files.config["task_type"] = value!("CAUSAL_LM");
    files.config["modules_to_save"] = value!(null);
    let error = Adapter::load(&model, files.write().path()).unwrap_err();
    assert!(matches!(error, AdapterError::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("task_type"), "{error}");

    let error = Adapter::load_for(&model, &goldens().join("tiny-llama/adapter"), Some(Task::SequenceClassification))
        .unwrap_err();
    assert!(matches!(error, AdapterError::Task { needed: Task::SequenceClassification, .. }), "{error:?}");
    assert!(error.to_string().contains("without a score head"), "{error}");
}
