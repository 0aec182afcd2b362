//! Rows that were made for another model, another template or another run.

use crate::align::{Run, align, copy_folder, golden_model, lines_in, number, text};
use serde_json::{Value, json};
use std::path::Path;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Runs a command on a golden model and these rows.
fn over(command: &str, model_name: &str, rows: &[Value], more: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (golden_model(model_name), lines_in(folder.path(), "rows.jsonl", rows));
    let common = [command, "--model", text(&model), "--data", text(&data)];
    align(&[&common[..], more].concat())
}

fn eight(row: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..8).map(row).collect()
}

fn question(i: usize) -> String {
    format!("Why is the lake number {i} salty?")
}

fn turns(i: usize) -> Value {
    let says = |text: &str| json!([{"role": "assistant", "content": format!("{text} {i}.")}]);
    json!({"prompt": [{"role": "user", "content": question(i)}], "chosen": says("No river leaves it"), "rejected": says("Fish")})
}

fn texts(i: usize) -> Value {
    json!({"prompt": format!("\n\nHuman: {}\n\nAssistant:", question(i)), "chosen": format!(" No river leaves {i}."), "rejected": " Fish."})
}

/// Returns the lines of stderr that contain all of `parts`.
fn said<'a>(run: &'a Run, parts: &[&str]) -> Vec<&'a str> {
    run.stderr.lines().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
}

#[track_caller]
fn says(run: &Run, parts: &[&str]) {
    assert_eq!(said(run, parts).len(), 1, "{parts:?}: {}", run.stderr);
}

/// The tokenizer cuts marks of another model's template into pieces, both in texts and in turns that such a template renders.
#[test]
fn marks_that_are_no_tokens_are_warned_of() {
    let written = |i: usize| {
        json!({"prompt": format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", question(i)),
               "chosen": format!("No river leaves {i}.<|im_end|>"), "rejected": "Fish.<|im_end|>"})
    };
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("chatml.jinja");
    std::fs::write(&template, CHATML).unwrap();
    let foreign = ["--chat-template", text(&template)];
    for (rows, more) in [(eight(written), &[][..]), (eight(turns), &foreign)] {
        for command in ["inspect", "eval", "score"] {
            let run = over(command, "tiny-gemma2", &rows, more).ok();
            says(
                &run,
                &[
                    "warning: ",
                    "rows.jsonl:1",
                    "\"<|im_end|>\" is no token of this model",
                    "in 8 of the 8 rows",
                    "--chat-template",
                ],
            );
        }
        let own = over("inspect", "tiny-qwen2", &rows, more).ok();
        assert_eq!(said(&own, &["warning: "]), [] as [&str; 0]);
    }
    let ended = |i: usize| json!({"prompt": question(i), "chosen": format!("River {i}</s>"), "rejected": "Fish</s>"});
    says(&over("inspect", "tiny-qwen2", &eight(ended), &[]).ok(), &["\"</s>\" is no token"]);
    assert_eq!(said(&over("inspect", "tiny-mistral", &eight(ended), &[]).ok(), &["is no token"]), [] as [&str; 0]);
    let llama2 = |i: usize| json!({"prompt": format!("<s>[INST] {} [/INST]", question(i)), "chosen": format!(" River {i}"), "rejected": " Fish"});
    says(&over("inspect", "tiny-qwen2", &eight(llama2), &[]).ok(), &["\"<s>\" is no token", "`prompt`"]);
    let deepseek = |i: usize| json!({"prompt": format!("<｜User｜>{}<｜Assistant｜>", question(i)), "chosen": format!("River {i}"), "rejected": "Fish"});
    says(&over("inspect", "tiny-qwen2", &eight(deepseek), &[]).ok(), &["\"<｜User｜>\" is no token"]);
    // text that only resembles a mark is not reported
    let code = |i: usize| json!({"prompt": question(i), "chosen": format!("a <| b |> {i} <s>old</s> way"), "rejected": "x |> y <| z"});
    assert_eq!(said(&over("inspect", "tiny-qwen2", &eight(code), &[]).ok(), &["is no token"]), [] as [&str; 0]);
}

/// Rows may have the model's own marks inside the content of a turn. This is reported.
#[test]
fn marks_within_turns_are_warned_of() {
    let ended = |i: usize| {
        let mut row = turns(i);
        row["chosen"][0]["content"] = format!("River {i}<|im_end|>").into();
        row
    };
    let run = over("eval", "tiny-qwen2", &eight(ended), &[]).ok();
    says(&run, &["warning: ", "`chosen[0].content` has \"<|im_end|>\"", "take it out of the rows"]);
    let tools = |i: usize| {
        let mut row = turns(i);
        row["tools"] = "".into();
        row["chat_template_kwargs"] = json!({"enable_thinkin": false});
        row
    };
    let run = over("inspect", "tiny-qwen3", &eight(tools), &[]).ok();
    says(&run, &["warning: ", "the chat template does not read `enable_thinkin`"]);
    assert_eq!(said(&run, &["warning: "]).len(), 1, "{}", run.stderr);
}

/// A text may begin with the start token that the tokenizer also adds. This is reported.
#[test]
fn a_second_start_is_warned_of() {
    for (model, start, prompt) in [
        (
            "tiny-llama31",
            "<|begin_of_text|>",
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("tiny-gemma2", "<bos>", "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n"),
        ("tiny-mistral", "<s>", "[INST] q [/INST]"),
    ] {
        let row = |start: &str| {
            let prompt = format!("{start}{prompt}");
            move |i: usize| json!({"prompt": prompt.replace('q', &question(i)), "chosen": format!("River {i}"), "rejected": "Fish"})
        };
        says(
            &over("inspect", model, &eight(row(start)), &[]).ok(),
            &["warning: ", "`prompt` begins with", start, "twice"],
        );
        assert_eq!(
            said(&over("inspect", model, &eight(row("")), &[]).ok(), &["warning: "]),
            [] as [&str; 0],
            "{model}"
        );
    }
}

/// In CSV, a quote that was meant as a character would merge two rows into one, so text after a closing quote is refused.
#[test]
fn text_behind_a_closing_quote_of_csv_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden_model("tiny-qwen2");
    let inspect = |name: &str, text_of: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text_of).unwrap();
        align(&["inspect", "--model", text(&model), "--data", text(&path)])
    };
    let merged = "prompt,chosen,rejected\nHow far?,Far,\"Near.\nWho?,He,\"She.\nWhat?,That,This\n";
    inspect("merged.csv", merged).refused(3, &["merged.csv:3: text follows the quote that closes a cell"]);
    let spoken = "prompt\tchosen\trejected\nHow far?\t\"Well,\" he said\tNear.\n";
    inspect("spoken.tsv", spoken).refused(3, &["spoken.tsv:2: text follows the quote"]);
    let right = "\u{feff}\"prompt\",chosen,rejected\r\n\"How\nfar?\",\"He said \"\"far\"\", so.\",near\"er\r\nWho?,\"\",\"She\"\r\n";
    let run = inspect("right.csv", right);
    assert!(
        run.stderr.contains("from 2 records") || run.stderr.contains("right.csv:4: `chosen` is null"),
        "{}",
        run.stderr
    );
}

/// Marks that the model's own template writes need not be tokens of the model. They are known and cause no warning.
#[test]
fn marks_of_the_models_own_template_are_known() {
    const ZEPHYR: &str = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}\
                          {% if add_generation_prompt %}<|assistant|>\n{% endif %}{# <|user|> #}";
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&golden_model("tiny-mistral"), &model);
    std::fs::write(model.join("chat_template.jinja"), ZEPHYR).unwrap();
    let texts = |i: usize| json!({"prompt": format!("<|user|>\n{}</s>\n<|assistant|>\n", question(i)), "chosen": format!("River {i}</s>"), "rejected": "Fish</s>"});
    for rows in [eight(turns), eight(texts)] {
        let data = lines_in(folder.path(), "rows.jsonl", &rows);
        let run = align(&["inspect", "--model", text(&model), "--data", text(&data)]).ok();
        assert_eq!(said(&run, &["warning: "]), [] as [&str; 0]);
    }
}

/// The time for a row of nothing but marks or labels is proportional to its length.
#[test]
fn hostile_marks_are_looked_at_in_time() {
    let marks: String = (0..200_000).map(|i| format!("<|x{i}|>")).collect();
    let labels = "Q:\n".repeat(1360);
    let long = format!("Question: {}\nAnswer:", "Q:\nA:\n".repeat(1 << 20));
    let rows = [
        json!({"prompt": marks, "chosen": format!("{marks}{}", " ".repeat(1 << 20)), "rejected": "b"}),
        json!({"prompt": long, "chosen": labels, "rejected": "b"}),
    ];
    let run = over("inspect", "tiny-qwen2", &rows, &["--allow-drops"]);
    assert!(run.code == Some(0) || run.code == Some(2), "{}", run.stderr);
}

/// An answer whose text contains the next turns of the conversation is reported.
#[test]
fn turns_of_others_in_the_text_of_an_answer_are_warned_of() {
    for (prompt, next) in [
        ("\n\nHuman: q\n\nAssistant:", "\n\nHuman: thanks\n\nAssistant: welcome"),
        ("### Instruction:\nq\n\n### Response:\n", "\n\n### Instruction:\nmore\n\n### Response:\nok"),
        ("[INST] q [/INST]", " [INST] more [/INST] ok"),
        ("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n"),
    ] {
        let row = |i: usize| json!({"prompt": prompt.replace('q', &question(i)), "chosen": format!(" Rivers.{next}"), "rejected": " Fish."});
        let run = over("eval", "tiny-qwen2", &eight(row), &[]).ok();
        says(&run, &["warning: ", "rows.jsonl:1: `chosen` goes on with a turn", "end the answers before it"]);
    }
    let speaks_of = |i: usize| {
        let answer = " Write this:\nSpeaker: Human: a word with a colon.";
        json!({"prompt": format!("\n\nHuman: {}\n\nAssistant:", question(i)), "chosen": answer, "rejected": " Fish."})
    };
    let run = over("eval", "tiny-qwen2", &eight(speaks_of), &[]).ok();
    assert_eq!(said(&run, &["goes on with a turn"]), [] as [&str; 0]);
    // the end of a turn opens no turn, and neither does a name in a tag
    for (model, prompt, answer) in [
        ("tiny-qwen2", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "River N<|im_end|>"),
        (
            "tiny-llama31",
            "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "River N<|eot_id|>",
        ),
        ("tiny-gemma2", "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n", "River N<end_of_turn>"),
        ("tiny-mistral", "[INST] q [/INST]", " River N</s>"),
        (
            "tiny-qwen2",
            "<context>a lake</context><question>q</question> Put it in <answer></answer>.\nAssistant:",
            " By the <context> given: N.",
        ),
    ] {
        let row = |i: usize| json!({"prompt": prompt.replace('q', &question(i)), "chosen": answer.replace('N', &i.to_string()), "rejected": answer});
        let run = over("inspect", model, &eight(row), &[]).ok();
        assert_eq!(said(&run, &["warning: "]), [] as [&str; 0], "{prompt}");
    }
}

#[test]
fn roles_that_nobody_knows_are_warned_of() {
    let row = |role: &str| {
        let role = role.to_owned();
        move |i: usize| {
            let mut row = turns(i);
            row["prompt"][0]["role"] = role.clone().into();
            row
        }
    };
    for command in ["inspect", "eval", "generate"] {
        let more = if command == "generate" { &["--max-new-tokens", "1"][..] } else { &[] };
        let run = over(command, "tiny-qwen2", &eight(row("customer")), more).ok();
        says(&run, &["warning: ", "`prompt[0].role` is `customer`", "write `user`"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("customers.jinja");
    std::fs::write(&template, "{% if messages[0].role == 'customer' %}{% endif %}".to_owned() + CHATML).unwrap();
    let known = over("inspect", "tiny-qwen2", &eight(row("customer")), &["--chat-template", text(&template)]).ok();
    assert_eq!(said(&known, &["`customer`"]), [] as [&str; 0]);
    // a word in the template's source is not a role
    says(&over("inspect", "tiny-qwen2", &eight(row("message")), &[]).ok(), &["`prompt[0].role` is `message`"]);
    assert_eq!(said(&over("inspect", "tiny-qwen2", &eight(row("human")), &[]).ok(), &[".role`"]), [] as [&str; 0]);
}

/// A column that says which answer is better may contradict the rows. This is reported.
#[test]
fn unread_columns_that_contradict_the_pairs_are_warned_of() {
    let scored = |chosen: f64| {
        move |i: usize| {
            let mut row = texts(i);
            row["score_chosen"] = chosen.into();
            row["score_rejected"] = 5.into();
            row
        }
    };
    let run = over("eval", "tiny-qwen2", &eight(scored(2.5)), &[]).ok();
    says(&run, &["warning: ", "`score_chosen` is below `score_rejected` (2.5 and 5)", "in 8 of the 8 rows"]);
    assert_eq!(said(&over("eval", "tiny-qwen2", &eight(scored(7.0)), &[]).ok(), &["is below"]), [] as [&str; 0]);

    // if there are several scores, some do not say which answer is better
    let several = |i: usize| {
        let mut row = texts(i);
        for (name, [chosen, rejected]) in
            [("overall_score", [8.0, 5.0]), ("honesty_score", [3.0, 4.0]), ("toxicity_score", [0.1, 0.8])]
        {
            row[format!("chosen_{name}")] = chosen.into();
            row[format!("rejected_{name}")] = rejected.into();
        }
        row
    };
    assert_eq!(said(&over("eval", "tiny-qwen2", &eight(several), &[]).ok(), &["is below"]), [] as [&str; 0]);
    let stanford = |i: usize| {
        json!({"history": question(i), "human_ref_A": format!("River {i}"), "human_ref_B": "Fish", "labels": i % 2,
               "score_A": "12", "score_B": "40"})
    };
    let columns = ["--columns", "prompt=history,chosen=human_ref_A,rejected=human_ref_B"];
    let run = over("eval", "tiny-qwen2", &eight(stanford), &columns).ok();
    says(&run, &["warning: ", "`score_A` is below `score_B` (12 and 40)"]);
    says(&run, &["warning: ", "the column `labels` is not read and does not say the same of all rows"]);
    let sentence = |i: usize| json!({"prompt": question(i), "correct": format!("River {i}"), "wrong": "Fish", "best_answer": format!("It is the river with the number {i}")});
    let run = over("eval", "tiny-qwen2", &eight(sentence), &["--columns", "chosen=correct,rejected=wrong"]).ok();
    assert_eq!(said(&run, &["`best_answer` is not read and"]), [] as [&str; 0]);

    let voted = |better: fn(usize) -> usize| move |i: usize| json!({"prompt": question(i), "a": format!("River {i}"), "b": "Fish", "preference_source": "human", "better_response_id": better(i)});
    let columns = ["--columns", "chosen=a,rejected=b"];
    let run = over("eval", "tiny-qwen2", &eight(voted(|i| i % 2)), &columns).ok();
    says(&run, &["warning: ", "the column `better_response_id` is not read and does not say the same of all rows"]);
    let sorted = over("eval", "tiny-qwen2", &eight(voted(|_| 0)), &columns).ok();
    assert_eq!(said(&sorted, &["the column `better_response_id`"]), [] as [&str; 0]);
}

/// Another version of the prompt in another column is not a second prompt.
#[test]
fn other_versions_of_the_prompt_are_no_prompts_beside_it() {
    let row = |i: usize| {
        let mut row = texts(i);
        row["original_prompt"] = format!("Of the lake {i} in other words").into();
        row["prompt_en"] = format!("In English: {}", question(i)).into();
        row
    };
    let run = over("inspect", "tiny-qwen2", &eight(row), &[]).ok();
    assert_eq!(said(&run, &["warning: "]), [] as [&str; 0]);
    says(&run, &["columns that are not read: original_prompt (8), prompt_en (8)"]);
    let other = |i: usize| {
        let mut row = texts(i);
        row["clean_instruction"] = "Answer in German, in verse.".into();
        row
    };
    says(
        &over("inspect", "tiny-qwen2", &eight(other), &[]).ok(),
        &["warning: ", "the column `clean_instruction` is not read"],
    );
}

/// A system turn of the row takes precedence over a `system` column. The column is then not reported as read.
#[test]
fn a_system_column_beside_a_system_turn_is_not_said_to_be_read() {
    let row = |own: bool| {
        move |i: usize| {
            let mut row = turns(i);
            row["system"] = "Be brief.".into();
            if own {
                row["prompt"].as_array_mut().unwrap().insert(0, json!({"role": "system", "content": "Be kind."}));
            }
            row
        }
    };
    let line = ["the system's text is the column `system`"];
    says(&over("inspect", "tiny-qwen2", &eight(row(false)), &[]).ok(), &line);
    assert_eq!(said(&over("inspect", "tiny-qwen2", &eight(row(true)), &[]).ok(), &line), [] as [&str; 0]);
}

/// An answer of blanks counts as empty.
#[test]
fn answers_of_blanks_are_counted() {
    let row = |i: usize| json!({"prompt": question(i), "chosen": format!("River {i}"), "rejected": "  \n"});
    says(&over("inspect", "tiny-qwen2", &eight(row), &[]).ok(), &["8 answers that are empty or blank"]);
}

/// Rows from which a loss learns nothing are reported.
#[test]
fn rows_that_teach_nothing_are_warned_of() {
    let labelled = |every: usize| move |i: usize| json!({"prompt": question(i), "completion": "River", "label": i.is_multiple_of(every)});
    let kto = ["--loss", "kto"];
    says(
        &over("eval", "tiny-qwen2", &eight(labelled(1)), &kto).ok(),
        &["warning: data: all 8 rows have the label true"],
    );
    assert_eq!(said(&over("eval", "tiny-qwen2", &eight(labelled(2)), &kto).ok(), &["have the label"]), [] as [&str; 0]);
    let alike = |i: usize| {
        let start = "The river ".repeat(40);
        json!({"prompt": question(i), "chosen": format!("{start}left."), "rejected": format!("{start}dried.")})
    };
    let run = over("inspect", "tiny-qwen2", &eight(alike), &["--max-length", "64"]).ok();
    says(&run, &["warning: data: 8 of 8 pairs are the same once they are cut", "raise --max-length"]);
}

/// Rows of texts are reported if the adapter was trained on turns, and rows of turns if it was trained on texts.
#[test]
fn rows_of_another_form_than_the_runs_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, rows: &[Value]| lines_in(folder.path(), name, rows);
    let (turned, texts) = (file("turns.jsonl", &eight(turns)), file("texts.jsonl", &eight(texts)));
    let model = golden_model("tiny-qwen2");
    let train = |data: &Path, name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let flags =
            ["train", "--model", text(&model), "--data", text(data), "--output", text(&out), "--max-steps", "1"];
        (align(&[&flags[..], more].concat()).ok(), out)
    };
    let (first, of_turns) = train(&turned, "of-turns", &[]);
    assert_eq!(said(&first, &["note: "]), [] as [&str; 0]);
    let (mixed, of_texts) = train(&texts, "of-texts", &["--eval-data", text(&turned)]);
    says(&mixed, &["note: the rows of the evaluation are lists of {role, content}, and those of the training strings"]);
    let with = |command: &str, adapter: &Path, more: &[&str]| {
        align(&[&[command, "--model", text(&model), "--adapter", text(adapter)], more].concat()).ok()
    };
    for (adapter, own, other) in [(&of_turns, &turned, &texts), (&of_texts, &texts, &turned)] {
        for command in ["eval", "score", "inspect"] {
            says(
                &with(command, adapter, &["--data", text(other)]),
                &["note: these rows are", "the adapter was trained on"],
            );
            let same = with(command, adapter, &["--data", text(own)]);
            assert_eq!(said(&same, &["the adapter was trained on"]), [] as [&str; 0]);
        }
        let (on, _) = train(other, "on", &["--adapter", text(adapter), "--overwrite"]);
        says(&on, &["note: these rows are"]);
    }
    let ask = |adapter: &Path, more: &[&str]| {
        with("generate", adapter, &[&["--prompt", "Why?", "--max-new-tokens", "1"], more].concat())
    };
    says(&ask(&of_texts, &[]), &["note: the adapter was trained on texts", "--no-chat continues it as it is"]);
    for quiet in [ask(&of_texts, &["--no-chat"]), ask(&of_turns, &[]), ask(&of_turns, &["--no-chat"])] {
        assert_eq!(said(&quiet, &["the adapter was trained on"]), [] as [&str; 0]);
    }
}

/// The switch that a preset turns on cannot be turned off. With a loss that has the switch off anyway, turning it off is allowed.
#[test]
fn switches_that_are_off_are_not_ignored() {
    let rows = eight(turns);
    let run = over("eval", "tiny-qwen2", &rows, &["--loss", "wpo", "--no-use-weighting"]);
    run.refused(2, &["use_weighting"]);
    let loss = |more: &[&str]| {
        number(&over("eval", "tiny-qwen2", &rows, &[&["--json"], more].concat()).ok().json()["eval_loss"])
    };
    for name in ["ipo", "dpo"] {
        assert_eq!(loss(&["--loss", name, "--no-use-weighting"]), loss(&["--loss", name]), "{name}");
    }
    // the saved options of a run also name the knobs that are off; another run may read these options and turn one of the knobs
    // on by its loss
    let folder = tempfile::tempdir().unwrap();
    let (model, data, out) =
        (golden_model("tiny-qwen2"), lines_in(folder.path(), "rows.jsonl", &rows), folder.path().join("run"));
    let flags = ["train", "--model", text(&model), "--data", text(&data), "--max-steps", "1", "--output", text(&out)];
    align(&flags).ok();
    let again = folder.path().join("again");
    align(&["train", "--config", text(&out.join("config.toml")), "--loss", "wpo", "--output", text(&again)]).ok();
}
