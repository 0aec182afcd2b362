//! Generation with a Phi 3 whose texts grow beyond `original_max_position_embeddings` (the border). In a longer text every
//! position has other angles, so the whole text must be read again.

use crate::align::{committed_goldens, ids, read_json, write_lines};
use crate::cases_models::{CONFIG, Folder};
use align_engine::adapters::AdapterSet;
use align_engine::generate::{Completion, Finish, Random, Request, Sampling, generate};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::{Device, Precision};
use align_lora::adapter::Adapter;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Borders at, between and after the lengths of the prompts, which are 9, 12 and 14 tokens.
const BORDERS: [usize; 4] = [9, 12, 13, 17];
const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Makes a tiny-phi3 with its border at `tokens` and without a stop token.
fn folder(tokens: usize) -> Folder {
    let model = Folder::of("tiny-phi3");
    for name in [CONFIG, "model/generation_config.json"] {
        model.edit(name, |config| drop(config.remove("eos_token_id")));
    }
    model.edit(CONFIG, |config| config["original_max_position_embeddings"] = json!(tokens));
    model
}

fn model(border: usize) -> Model {
    let dir = folder(border);
    let files = WeightFiles::open(&dir.path("model"), ValueCheck::Finite).unwrap();
    let config = ModelConfig::open(&dir.path("model")).unwrap();
    Model::load(&Device::cpu(Some(2)).unwrap(), config, &files).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    [9, 12, 14].map(|length| (0..length).map(|i| 20 + 7 * i).collect()).into()
}

/// Returns a request for ten greedy tokens.
fn greedy() -> Request {
    Request {
        max_new_tokens: 10,
        min_new_tokens: 0,
        stop: Vec::new(),
        sampling: Sampling::GREEDY,
        precision: Precision::F32,
        first_sequence: 0,
    }
}

fn all(model: &Model, adapter: Option<&Arc<AdapterSet>>, request: &Request) -> Vec<Completion> {
    generate(model, adapter, &prompts(), request, |_, _| true).unwrap()
}

/// Checks that every prompt gets the same text in a batch as alone, and returns the texts.
fn together_as_alone(model: &Model, adapter: Option<&Arc<AdapterSet>>, request: &Request) -> Vec<Completion> {
    let together = all(model, adapter, request);
    for (i, prompt) in prompts().into_iter().enumerate() {
        let request = Request { first_sequence: i as u64, ..request.clone() };
        let alone = generate(model, adapter, &[prompt], &request, |_, _| true).unwrap();
        assert_eq!(alone[0], together[i], "prompt {i}, {request:?}");
    }
    together
}

/// Checks that a text generated in one call is the same as one generated token by token, with a new cache for each token.
fn at_once_as_anew(model: &Model, adapter: Option<&Arc<AdapterSet>>, request: &Request) {
    let one = Request { max_new_tokens: 1, ..request.clone() };
    for (prompt, text) in prompts().into_iter().zip(all(model, adapter, request)) {
        let mut anew = prompt.clone();
        for _ in 0..text.tokens.len() {
            let next = generate(model, adapter, std::slice::from_ref(&anew), &one, |_, _| true).unwrap();
            anew.extend(&next[0].tokens);
        }
        assert_eq!(anew[prompt.len()..], text.tokens, "{} tokens of prompt, {request:?}", prompt.len());
    }
}

/// The tokens are those of transformers 5.23 (`expected.json`). The texts of a batch cross the border at different steps.
#[test]
fn phi3_goes_on_beyond_the_border_of_longrope_as_if_read_anew() {
    let model = folder(40);
    let expected = read_json(Path::new("tests/cases/models/phi3-longrope-border/expected.json"));
    let expected = expected.as_array().unwrap();
    let prompts: Vec<Value> = expected.iter().map(|case| json!({"prompt": case["prompt"]})).collect();
    write_lines(&model.path("rows.jsonl"), &prompts);
    for batch in ["1", "2", "4"] {
        let run = model.run("generate", "model", &["--max-new-tokens", "41", "--batch-size", batch]).ok();
        for (row, case) in run.json_lines().iter().zip(expected) {
            let want = ids(&case["tokens"]);
            assert_eq!(row["prompt_tokens"], case["prompt_tokens"]);
            assert_eq!(ids(&row["tokens"])[..want.len()], want, "{} in batches of {batch}", case["prompt"]);
        }
    }
}

#[test]
fn a_text_at_once_is_the_text_token_by_token() {
    for model in BORDERS.map(model) {
        for precision in BOTH {
            together_as_alone(&model, None, &Request { precision, ..greedy() });
        }
        at_once_as_anew(&model, None, &greedy());
    }
}

/// A text that stops does not change the other texts of its batch, wherever they cross the border.
#[test]
fn texts_that_stop_change_no_other() {
    for model in BORDERS.map(model) {
        for precision in BOTH {
            let request = Request { precision, ..greedy() };
            let whole = all(&model, None, &request);
            for (first, second) in [(0, 5), (3, 7), (6, 2)] {
                let stop = vec![whole[0].tokens[first], whole[1].tokens[second]];
                let stopped = together_as_alone(&model, None, &Request { stop: stop.clone(), ..request.clone() });
                for (stopped, whole) in stopped.iter().zip(&whole) {
                    let end = whole.tokens.iter().position(|token| stop.contains(token));
                    assert_eq!(stopped.tokens, whole.tokens[..end.map_or(10, |end| end + 1)]);
                    assert_eq!(stopped.finish == Finish::Stop, end.is_some());
                }
            }
        }
    }
}

#[test]
fn an_adapter_goes_beyond_the_border_too() {
    for model in BORDERS.map(model) {
        let adapter = Adapter::load(&model, &committed_goldens().join("tiny-phi3/adapter")).unwrap();
        let adapter = Some(adapter.set());
        let texts = together_as_alone(&model, adapter, &greedy());
        assert_ne!(texts, all(&model, None, &greedy()), "the adapter changes the texts");
        at_once_as_anew(&model, adapter, &greedy());
    }
}

/// Checks sampled tokens, and greedy tokens that the host chooses from the logits.
#[test]
fn sampling_goes_beyond_the_border_too() {
    let random = Random { temperature: 1.3, top_k: 50, top_p: 0.95, min_p: 0.0, seed: 7 };
    for model in BORDERS.map(model) {
        let drawn = Sampling { random: Some(random.clone()), repetition_penalty: 1.1 };
        together_as_alone(&model, None, &Request { sampling: drawn, ..greedy() });
        let penalised = Request { sampling: Sampling { random: None, repetition_penalty: 1.3 }, ..greedy() };
        together_as_alone(&model, None, &penalised);
        at_once_as_anew(&model, None, &penalised);
    }
}
