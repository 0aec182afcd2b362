//! Tests of tokenizers that do not fit the model, and of texts for which a tokenizer has no ids.

use std::path::Path;

use serde_json::{Value, json};

use super::{ROWS, tiny};
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::tokens::encode::{Encoder, EncoderError};
use crate::tokens::tokenizer::TokenizerError;

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let load = |dir: &Path, rows: usize| Encoder::from_model(dir, None, 64, rows).map(|_| ());
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(EncoderError::Tokenizer(TokenizerError::Missing { .. }))));
    match load(&tiny("tiny-llama"), 100) {
        Err(EncoderError::Tokenizer(TokenizerError::Vocabulary { rows: 100, id, .. })) => assert!(id >= 100),
        other => panic!("{other:?}"),
    }
    let path = dir.path().join("tokenizer.json");
    for broken in ["", "{}", "[1, 2", "{\"model\": {\"type\": \"BPE\"}}", &"[".repeat(100_000)] {
        std::fs::write(&path, broken).unwrap();
        assert!(
            matches!(load(dir.path(), ROWS), Err(EncoderError::Tokenizer(TokenizerError::Broken { .. }))),
            "{broken:.20}"
        );
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(EncoderError::Tokenizer(TokenizerError::TooLarge { .. }))));

    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), &path).unwrap();
    for broken in ["{", "[]"] {
        std::fs::write(dir.path().join("tokenizer_config.json"), broken).unwrap();
        assert!(
            matches!(load(dir.path(), ROWS), Err(EncoderError::Tokenizer(TokenizerError::Broken { .. }))),
            "{broken}"
        );
    }
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [3, 1.5]}"#).unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(EncoderError::Tokenizer(TokenizerError::Broken { .. }))));
}

/// A special token beyond the embedding (Gemma 3 1B has one) is no obstacle until a text holds it.
#[test]
fn a_spare_special_token_without_an_embedding_refuses_only_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(tiny("tiny-llama").join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    let vocabulary = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .values()
        .chain(tokenizer["added_tokens"].as_array().unwrap().iter().map(|t| &t["id"]));
    let rows = vocabulary.map(|id| id.as_u64().unwrap()).max().unwrap() + 1;
    let spare = json!({"id": rows, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(spare);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer_config.json"), dir.path().join("tokenizer_config.json")).unwrap();

    let encoder = Encoder::from_model(dir.path(), None, 64, rows as usize).unwrap();
    assert_eq!(encoder.tokenizer().unusable_tokens(), [(rows as u32, "<image>".to_owned())]);
    let record = |prompt: &str| {
        Record::parse(0, json!({"prompt": prompt, "chosen": "c", "rejected": "r"}).to_string().as_bytes())
            .unwrap()
            .record
    };
    assert!(encoder.encode(&record("an image")).is_ok());
    assert!(
        matches!(encoder.encode(&record("an <image>")), Err(BadRow::Tokenizer { message }) if message.contains("<image>"))
    );
}

/// A named special token that the vocabulary lacks would be cut into pieces, so a text that holds it is refused.
#[test]
fn a_special_token_without_an_id_refuses_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = json!({"eos_token": "<|end_of_text|>", "sep_token": "<|turn|>", "pad_token": "", "cls_token": null});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
    let tokenizer = encoder.tokenizer();
    assert!(tokenizer.encode_plain("Hello").is_ok());
    for encoded in [tokenizer.encode_plain("a<|turn|>"), tokenizer.encode_rendered("<|turn|>b")] {
        let message = encoded.unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: the text holds `<|turn|>`, the sep_token of"), "{message}");
    }
}

/// A tokenizer on which the library panics while it reads the file.
#[test]
fn a_panic_of_the_tokenizers_library_is_an_error_and_prints_nothing() {
    const THIS: &str = "tests::tokenizers::a_panic_of_the_tokenizers_library_is_an_error_and_prints_nothing";
    const CHILD: &str = "ALIGN_TEST_PANICKING_TOKENIZER";
    if std::env::var_os(CHILD).is_none() {
        // runs this test again in another process, whose stderr can be read
        let arguments = ["--exact", THIS, "--nocapture"];
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this).args(arguments).env(CHILD, "1").output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let bpe = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    std::fs::write(&path, json!({"normalizer": charsmap, "model": bpe}).to_string()).unwrap();
    match Encoder::from_model(dir.path(), None, 64, ROWS) {
        Err(EncoderError::Tokenizer(error @ TokenizerError::Broken { .. })) => {
            assert!(error.to_string().contains("tokenizer.json: the tokenizers library fails on it"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
