//! An evaluation of a run has the numbers that the run had at its end, to the last bit.

use super::*;
use crate::align::number;

const TABLE: [&[&str]; 10] = [
    &["dpo"],
    &["exo"],
    &["ipo", "--beta", "0.3"],
    &["kto"],
    &["bco"],
    &["sft"],
    &["rm_bt"],
    &["dpo:0.8,ipo:0.2"],
    &["dpo:0.8,sft:0.2"],
    &["alpha_dpo"],
];

#[test]
fn an_evaluation_of_a_run_is_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let template = case_template();
    let pairs = case_pairs();
    let renamed = renamed_pairs(folder.path());
    let columns = ["--columns", "prompt=question,chosen=better,rejected=worse"];
    // training a reward model drops rows whose answers --max-length would cut; here it drops so many that it needs --allow-drops
    let all = [
        &columns[..],
        &["--chat-template", text(&template), "--system", "Be brief."],
        &["--max-length", "300", "--allow-drops", "--lora-dropout", "0.1"],
    ]
    .concat();
    let f32 = [&all[..], &["--precision", "f32", "--logp-temperature", "0.9"]].concat();
    for (i, loss) in TABLE.iter().enumerate() {
        let reward = loss[0] == "rm_bt";
        let compares = !reward && loss[0] != "sft";
        let out = |name: &str| folder.path().join(format!("{i}-{name}"));
        let plain = Made { loss, data: &pairs, start: None, more: &[] }.check(&out("plain"));
        assert_eq!(plain["reference"], if compares { "base" } else { "none" }, "{loss:?}");
        let more: &[&str] = if reward { &all } else { &f32 };
        if reward {
            Made { loss, data: &renamed, start: None, more }.check(&out("all"));
            continue;
        }
        // the starting adapter is gone when the evaluation starts
        let (start, out) = (out("start"), out("all"));
        Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&start);
        let made = Made { loss, data: &renamed, start: Some(&start), more };
        made.train(&out);
        fs::remove_dir_all(&start).unwrap();
        let eval = made.evaluate(&out);
        same_evaluation(&eval.json(), &evaluation(&out), &format!("{loss:?} with everything"));
        let reference = eval.json()["reference"].as_str().unwrap().to_owned();
        assert_eq!(reference.len(), if compares { 64 } else { 4 }, "{loss:?}: {reference}");
    }
}

/// Makes dialogues from [`text_pairs`]. A dialogue has a turn marker but no prompt column, and both answers begin with the same
/// word.
fn dialogues() -> Vec<Value> {
    let dialogue = |pair: &Value, answer: &str| {
        let of = |key: &str| pair[key].as_str().unwrap();
        json!(format!("\n\nHuman: {}\n\nAssistant: Well,{}", of("prompt"), of(answer)))
    };
    let row = |pair: &Value| json!({"chosen": dialogue(pair, "chosen"), "rejected": dialogue(pair, "rejected")});
    text_pairs().iter().map(row).collect()
}

/// Each of these options changes the numbers of a run. An evaluation reads them from the run's folder, without a flag.
#[test]
fn options_that_say_how_rows_are_read_are_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, rows: &[Value]| lines_in(folder.path(), name, rows);
    let texts = texts(folder.path());
    let dialogues = file("dialogues.jsonl", &dialogues());
    let bad = file("bad.jsonl", &[text_pairs(), vec![json!({"prompt": "no answers"})]].concat());
    let scored = text_pairs().into_iter().enumerate().map(|(i, pair)| {
        json!({"prompt": pair["prompt"], "completions": [pair["chosen"], pair["rejected"], " None."], "rewards": [2, i, 1]})
    });
    let scored = file("scored.jsonl", &scored.collect::<Vec<_>>());
    let table: [(&[&str], &Path, &[&str]); 11] = [
        (&["dpo"], &texts, &["--system", "Be brief."]),
        (&["sft"], &texts, &["--system", "Be brief."]),
        (&["exo"], &texts, &["--chat"]),
        (&["rm_bt"], &texts, &["--chat", "--system", "Be brief."]),
        (&["ipo"], &dialogues, &["--implicit-prompt"]),
        (&["kto"], &dialogues, &["--implicit-prompt"]),
        (&["dpo"], &scored, &["--pairs", "best-worst"]),
        (&["ipo"], &scored, &["--pairs", "all"]),
        (&["dpo"], &bad, &["--on-bad-row", "skip"]),
        (&["kto"], &texts, &["--unpaired-order", "trl"]),
        // for BCO the order changes only the batches, since an evaluation uses the shift of the run
        (&["bco", "--no-shuffle"], &texts, &["--unpaired-order", "trl"]),
    ];
    for (i, (loss, data, options)) in table.into_iter().enumerate() {
        let out = |name: &str| folder.path().join(format!("{i}-{name}"));
        let made = Made { loss, data, start: None, more: options };
        made.check(&out("with"));
        let without = Made { more: &[], ..made }.try_to_train(&out("without"));
        let differs = without.code == Some(3)
            || evaluation(&out("with"))["eval_loss"] != evaluation(&out("without"))["eval_loss"];
        assert!(differs, "{loss:?} {options:?} changes nothing");
    }
}

/// An evaluation uses the run's `--sft-on`, batch size and length. The rows are whole conversations.
#[test]
fn an_evaluation_of_scored_turns_is_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (messages, out) = (model_case("eval-of-a-run").join("messages.jsonl"), folder.path().join("run"));
    let more = ["--sft-on", "assistant", "--max-length", "600", "--allow-drops", "--precision", "f32"];
    let made = Made { loss: &["sft"], data: &messages, start: None, more: &more };
    let object = made.check(&out);
    let by_flag = ["--sft-on", "all", "--batch-size", "8"];
    let other = on("eval", &out, &messages, &by_flag).ok();
    assert!(other.json()["eval_loss"] != object["eval_loss"], "a flag wins");
    assert!(!other.stderr.contains("sft-on"), "{}", other.stderr);
}

/// Checks the loss that the case's README states.
#[test]
fn the_case_of_an_evaluation_has_the_value_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (model(), folder.path().join("run"));
    let messages = model_case("eval-of-a-run").join("messages.jsonl");
    let flags = ["train", "--model", text(&model), "--data", text(&messages), "--eval-data", text(&messages)];
    let more =
        ["--loss", "sft", "--sft-on", "assistant", "--max-length", "600", "--max-steps", "2", "--batch-size", "2"];
    let rest = ["--learning-rate", "1e-3", "--precision", "f32", "--output", text(&out)];
    align(&[&flags[..], &more, &rest].concat()).ok();
    let eval = on("eval", &out, &messages, &[]).ok();
    same_evaluation(&eval.json(), &evaluation(&out), "the case");
    let loss = number(&eval.json()["eval_loss"]);
    assert!((loss - 9.9515).abs() < 1e-3, "{loss}");
}
