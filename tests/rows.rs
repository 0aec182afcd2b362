//! How rows are read, on the command line: `--columns`, `--sft-on`, and the shapes that `score`, `inspect` and `generate` read.

use crate::align::{Run, align, committed_goldens, golden_model, lines_in, read_lines, text, turn};
use serde_json::{Value, json};
use std::path::Path;

fn score(model: &str, data: &Path, more: &[&str]) -> Run {
    let model = golden_model(model);
    let common = ["score", "--model", text(&model), "--data", data.to_str().unwrap(), "--json", "--precision", "f32"];
    align(&[&common[..], more].concat())
}

/// Rows give the same log-probs if their columns have other names. The config.toml of a run on them repeats the run.
#[test]
fn columns_under_other_names_are_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<Value> = read_lines(&committed_goldens().join("pairs.jsonl")).into_iter().take(4).collect();
    let renamed: Vec<Value> = pairs
        .iter()
        .map(|row| json!({"question": row["prompt"], "better": row["chosen"], "worse": row["rejected"], "id": row["id"]}))
        .collect();
    let (own, other) = (lines_in(folder.path(), "own.jsonl", &pairs), lines_in(folder.path(), "other.jsonl", &renamed));
    let columns = ["--columns", "prompt=question,chosen=better", "rejected=worse"];
    let scores = score("tiny-llama", &other, &columns).ok();
    assert_eq!(scores.stdout, score("tiny-llama", &own, &[]).ok().stdout);

    let out = folder.path().join("out");
    let (model, data, output) = (golden_model("tiny-llama"), other.to_str().unwrap(), out.to_str().unwrap());
    let run = ["train", "--model", text(&model), "--data", data, "--max-steps", "1", "--output", output];
    align(&[&run[..], &["--max-length", "96", "--allow-drops"], &columns].concat()).ok();
    let written = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(written.contains(r#"columns = "prompt=question,chosen=better,rejected=worse""#), "{written}");
    let (config, again) = (out.join("config.toml"), folder.path().join("again"));
    align(&["train", "--config", config.to_str().unwrap(), "--output", again.to_str().unwrap()]).ok();
    let loss = |folder: &Path| read_lines(&folder.join("metrics.jsonl"))[0]["loss"].clone();
    assert_eq!(loss(&out), loss(&again));

    let prompts = ["generate", "--model", text(&model), "--data", data, "--columns", "prompt=question", "--limit", "1"];
    let said = align(&[&prompts[..], &["--max-new-tokens", "2", "--json"]].concat()).ok();
    assert_eq!(said.json_lines().len(), 1);
    let shown =
        align(&["inspect", "--model", text(&model), "--data", data, columns[0], columns[1], columns[2], "--json"]).ok();
    assert_eq!(shown.json()["data"]["kept"], 4);
}

#[test]
fn wrong_names_are_refused_with_the_exit_codes_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "d.jsonl", &[json!({"prompt": "p", "chosen": " c", "rejected": " r"})]);
    for (columns, code, words) in [
        ("question=prompt", 2, "no column is called `question` here"),
        ("prompt", 2, "expected OURS=THEIRS"),
        ("prompt=a,prompt=b", 2, "from `a` or from `b`"),
        ("prompt=a,chosen=a", 2, "for `prompt` and for `chosen`"),
        ("tools=functions", 3, "no row has the column `functions`"),
        ("completion=c", 3, "no row has the column `c`"),
    ] {
        let run = score("tiny-llama", &data, &["--columns", columns]);
        assert_eq!(run.code, Some(code), "{columns}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{columns}: {}", run.stderr);
    }
    let part = score("tiny-llama", &data, &["--sft-on", "all"]);
    assert_eq!(part.code, Some(3), "{}", part.stderr);
    assert!(
        part.stderr.contains("d.jsonl:1: the row is {prompt, chosen, rejected} of strings; --sft-on is for sequences")
    );
    let model = golden_model("tiny-llama");
    for command in [["inspect", "--model", text(&model)], ["generate", "--model", text(&model)]] {
        let run = align(&[&command[..], &["--columns", "prompt=q"]].concat());
        assert_eq!(run.code, Some(2), "{}", run.stderr);
    }
    let hint = align(&["train", "--demo", "--assistant_only_loss", "true"]);
    assert!(hint.stderr.contains("--sft-on assistant"), "{}", hint.stderr);
}

/// If the assistant's turns of a conversation are scored, the scored tokens and their log-probs are those of the single answers,
/// each after the turns before it. By default more tokens are scored.
#[test]
fn a_conversation_is_scored_as_the_sum_of_its_turns() {
    let folder = tempfile::tempdir().unwrap();
    let turns = [turn("user", "one"), turn("assistant", "two"), turn("user", "three"), turn("assistant", "four")];
    let answer = |at: usize| json!({"prompt": turns[..at], "completion": [turns[at]]});
    let conversation = lines_in(folder.path(), "talk.jsonl", &[json!({"messages": turns})]);
    let answers = lines_in(folder.path(), "answers.jsonl", &[answer(1), answer(3)]);
    for model in ["tiny-qwen2", "tiny-llama", "tiny-gemma2"] {
        let whole = score(model, &conversation, &["-v", "--sft-on", "assistant", "--per-token"]).ok();
        assert!(
            whole.stderr.contains("scored: the assistant's turns, by what the chat template adds"),
            "{}",
            whole.stderr
        );
        let whole = &whole.json_lines()[0]["completion"];
        let parts = score(model, &answers, &["--per-token"]).ok().json_lines();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let ids: Vec<Value> = parts.iter().flat_map(|row| list(&row["completion"]["token_ids"])).collect();
        assert_eq!(whole["token_ids"], Value::from(ids), "{model}");
        assert_eq!(whole["tokens"], parts.iter().map(|row| row["completion"]["tokens"].as_u64().unwrap()).sum::<u64>());
        // a token's log-prob does not depend on later tokens
        let logps: Vec<Value> = parts.iter().flat_map(|row| list(&row["completion"]["token_logps"])).collect();
        assert_eq!(whole["token_logps"], Value::from(logps), "{model}");
        let all = score(model, &conversation, &[]).ok().json_lines();
        let tokens = all[0]["completion"]["tokens"].as_u64().unwrap();
        assert_eq!(all[0]["prompt_tokens"], 1);
        assert!(tokens > whole["tokens"].as_u64().unwrap());
    }
}

#[test]
fn inspect_shows_what_is_not_scored() {
    let folder = tempfile::tempdir().unwrap();
    let turns = [turn("user", "one"), turn("assistant", "two"), turn("user", "three"), turn("assistant", "four")];
    let data = lines_in(folder.path(), "talk.jsonl", &[json!({"messages": turns})]);
    let (model, data) = (golden_model("tiny-qwen2"), data.to_str().unwrap());
    let run = ["inspect", "--model", text(&model), "--data", data, "--row", "0", "--sft-on", "assistant", "--json"];
    let shown = align(&run).ok().json();
    let gaps = shown["row"][0]["not_scored"][0].as_array().unwrap();
    assert_eq!(gaps.len(), 1);
    let (first, last) = (gaps[0][0].as_u64().unwrap() as usize, gaps[0][1].as_u64().unwrap() as usize);
    let answer = shown["row"][0]["answers"][0].as_array().unwrap();
    assert_eq!(answer[first][1], "<|im_start|>");
    let scored = shown["data"]["scored_tokens"].as_u64().unwrap() as usize;
    assert_eq!(scored, answer.len() - (last + 1 - first));
}
