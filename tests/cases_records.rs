//! How rows become records: speakers of answers, turns in texts, columns that are read by their names, `--chat`, `--system` and
//! `--pairs`.

use crate::align::{Run, align, data_case, golden_model, lines_in, text, turn};
use serde_json::{Value, json};
use std::path::Path;

fn inspect(model_name: &str, data: &str, more: &[&str]) -> Run {
    let model = golden_model(model_name);
    let common = ["inspect", "--model", text(&model), "--data", data, "--row", "0", "--data-cache", "off", "--json"];
    align(&[&common[..], more].concat())
}

/// Returns what the tokens of the first row spell: the text of its prompt, and the text of each answer.
fn spelled(run: Run) -> (String, Vec<String>) {
    let row = run.ok().json()["row"][0].clone();
    let spell = |tokens: &Value| -> String {
        tokens.as_array().unwrap().iter().map(|token| token[1].as_str().unwrap()).collect::<String>().replace('Ġ', " ")
    };
    (spell(&row["prompt"]), row["answers"].as_array().unwrap().iter().map(spell).collect())
}

#[test]
fn names_of_roles_are_translated_under_role_too() {
    let template = data_case("answers-without-assistant/any.jinja");
    let flags = ["--chat-template", text(&template)];
    let gpt = spelled(inspect("tiny-qwen2", text(&data_case("answers-without-assistant/gpt.jsonl")), &flags));
    assert!(gpt.0.starts_with("<|im_start|>user") && gpt.0.contains("<|im_start|>assistant"), "{gpt:?}");
    assert!(gpt.1[0].starts_with('a') && gpt.1[1].starts_with('b'), "{gpt:?}");
    let folder = tempfile::tempdir().unwrap();
    for (asks, says) in [("Human", "GPT"), ("USER", "CHATBOT"), ("prompter", "model"), ("user", "bot")] {
        let turn = |role: &str, content: &str| json!([{"role": role, "content": content}]);
        let row = json!({"prompt": turn(asks, "q"), "chosen": turn(says, "a"), "rejected": turn(says, "b")});
        let data = lines_in(folder.path(), "roles.jsonl", &[row]);
        assert_eq!(spelled(inspect("tiny-qwen2", data.to_str().unwrap(), &flags)), gpt, "{asks} {says}");
    }
}

#[test]
fn an_answer_without_a_turn_of_the_assistant_is_refused() {
    let template = data_case("answers-without-assistant/any.jinja");
    let out = tempfile::tempdir().unwrap();
    let user = data_case("answers-without-assistant/user.jsonl");
    let train = |data: &str, loss: &str| {
        let (model, output) = (golden_model("tiny-qwen2"), out.path().join("run"));
        let common =
            ["train", "--model", text(&model), "--chat-template", text(&template), "--data", data, "--max-steps", "1"];
        let more = ["--loss", loss, "--data-cache", "off", "--reference-cache", "off", "--output"];
        align(&[&common[..], &more, &[output.to_str().unwrap()]].concat())
    };
    let run = train(text(&user), "dpo");
    run.refused(3, &["user.jsonl:1: `rejected` has no turn of the assistant, only of the role `user`"]);
    let turn = |role: &str| json!([{"role": role, "content": "x"}]);
    let (asked, tools) =
        (turn("user"), json!([{"role": "tool", "content": "1"}, {"role": "narrator", "content": "x"}]));
    for (row, loss, words) in [
        (
            json!({"prompt": asked, "completion": turn("customer"), "label": true}),
            "kto",
            "`completion` has no turn of the assistant, only of the role `customer`",
        ),
        (
            json!({"prompt": asked, "completions": [turn("assistant"), tools], "rewards": [1, 0]}),
            "exo_rw",
            "`completions[1]` has no turn of the assistant, only of the role `tool`, `narrator`",
        ),
        (json!({"prompt": asked, "completion": turn("user")}), "sft", "`completion` has no turn of the assistant"),
    ] {
        let data = lines_in(out.path(), "rows.jsonl", &[row]);
        let run = train(data.to_str().unwrap(), loss);
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    }
}

#[test]
fn turns_in_texts_are_turns_and_other_texts_are_texts() {
    let pairs = data_case("turns-as-json-text/pairs.jsonl");
    let folder = tempfile::tempdir().unwrap();
    let turn = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let as_turns =
        json!({"prompt": turn("user", "q"), "chosen": turn("assistant", "a"), "rejected": turn("assistant", "b")});
    let as_turns = lines_in(folder.path(), "turns.jsonl", &[as_turns]);
    let expected = spelled(inspect("tiny-qwen2", as_turns.to_str().unwrap(), &[]));
    assert!(expected.0.contains("<|im_start|>user"), "{expected:?}");
    assert_eq!(spelled(inspect("tiny-qwen2", text(&pairs), &[])), expected);
    let python = json!({
        "prompt": "[{'content': 'q', 'role': 'user'}]",
        "chosen": "array([{'content': 'a', 'role': 'assistant'}], dtype=object)",
        "rejected": "{\"from\": \"gpt\", \"value\": \"b\"}",
    });
    let python = lines_in(folder.path(), "python.jsonl", &[python]);
    assert_eq!(spelled(inspect("tiny-qwen2", python.to_str().unwrap(), &[])), expected);
    // read as texts: a list of strings, objects that are not turns, and a text that only begins like a list
    for (chosen, rejected) in [
        (r#"["a", "b"]"#, r#"["c"]"#),
        (r#"{"name": "x"}"#, r#"[{"name": "x"}, {"name": "y"}]"#),
        ("[see above] Yes.", "[1] says so."),
    ] {
        let row = json!({"prompt": "Give me JSON: ", "chosen": chosen, "rejected": rejected});
        let data = lines_in(folder.path(), "texts.jsonl", &[row]);
        let run = inspect("tiny-qwen2", data.to_str().unwrap(), &[]).ok();
        assert_eq!(run.json()["data"]["kind"], "{prompt, chosen, rejected} of strings", "{chosen}");
    }
}

#[test]
fn a_prompt_that_is_taken_by_its_name_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let row = |more: Value| {
        let mut row = json!({"chosen": " Yes.", "rejected": " No."});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let said = |rows: &[Value]| {
        let data = lines_in(folder.path(), "rows.jsonl", rows);
        let (model, data) = (golden_model("tiny-qwen2"), data.to_str().unwrap());
        align(&[
            "score",
            "-v",
            "--model",
            text(&model),
            "--data",
            data,
            "--data-cache",
            "off",
            "--reference-cache",
            "off",
        ])
    };
    let run = said(&[
        row(json!({"question": "Rain?"})),
        row(json!({"question": "Snow?", "system": "Be brief.", "source": "x"})),
    ])
    .ok();
    assert!(run.stderr.contains("\ndata: the prompt is the column `question` of 2 records\n"), "{}", run.stderr);
    assert!(run.stderr.contains("\ndata: the system's text is the column `system` of 1 record\n"), "{}", run.stderr);
    assert!(run.stderr.contains("columns that are not read: source (1)\n"), "{}", run.stderr);
    let run = said(&[row(json!({"instruction": "Translate.", "input": "rain"}))]).ok();
    assert!(run.stderr.contains("the prompt is the column `instruction` of 1 record"), "{}", run.stderr);
    assert!(run.stderr.contains("on a line of its own, with the column `input` of 1 record"), "{}", run.stderr);
    // if there is a `prompt` column, `question` and `input` are ordinary columns
    let run = said(&[row(json!({"prompt": "Rain?", "question": "no", "input": "no"}))]).ok();
    assert!(!run.stderr.contains("the prompt is the column"), "{}", run.stderr);
    let run = said(&[row(json!({"question": "Rain?", "instruction": "Snow?"}))]);
    run.refused(3, &["`instruction` and `question` may both be the prompt"]);
    assert!(run.stderr.contains("--columns prompt=instruction"), "{}", run.stderr);
}

#[test]
fn chat_and_system_go_through_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let rows = ["Is it raining?", "Is it cold?", "Is it late?"]
        .map(|asked| json!({"prompt": asked, "chosen": "Yes, it is.", "rejected": "No, it is not."}));
    let data = lines_in(folder.path(), "pairs.jsonl", &rows);
    let (model, data, out) = (golden_model("tiny-qwen2"), data.to_str().unwrap(), folder.path().join("out"));
    let flags = ["--chat", "--system", "Be brief."];
    let common = ["--model", text(&model), "--data", data, "--max-length", "200"];
    let train =
        ["--max-steps", "1", "--data-cache", "off", "--reference-cache", "off", "--output", out.to_str().unwrap()];
    align(&[&["train"][..], &common, &train, &flags].concat()).ok();
    let written = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(written.contains("chat = true\n") && written.contains("system = \"Be brief.\"\n"), "{written}");
    let score =
        ["score", "--json", "--adapter", out.to_str().unwrap(), "--data-cache", "off", "--reference-cache", "off"];
    let of_run = align(&[&score[..], &common].concat()).ok();
    assert_eq!(of_run.stdout, align(&[&score[..], &common, &flags].concat()).ok().stdout);
    // a prompt that is the common start of the answers cannot become a turn
    let answers: Vec<Value> =
        rows.iter().map(|row| json!({"chosen": row["chosen"], "rejected": row["rejected"]})).collect();
    let answers = lines_in(folder.path(), "answers.jsonl", &answers);
    let run = align(&["score", "--model", text(&model), "--data", text(&answers), "--chat", "--data-cache", "off"]);
    run.refused(3, &["name it with --columns prompt=NAME"]);
    let generate = ["generate", "--model", text(&model), "--prompt", "Hi", "--max-new-tokens", "1", "--json"];
    let tokens = |more: &[&str]| align(&[&generate[..], more].concat()).ok().json()["prompt_tokens"].as_u64().unwrap();
    // the text of --system replaces the template's own system text
    assert_ne!(tokens(&["--system", "Be brief."]), tokens(&[]));
}

#[test]
fn scored_answers_make_pairs_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        json!({"prompt": "p", "completions": [" a", " b", " c"], "rewards": [1, 3, 2]}),
        json!({"prompt": "q", "completions": [" a", " b"], "rewards": [1, 1]}),
    ];
    let data = lines_in(folder.path(), "scored.jsonl", &rows);
    let (model, data, out) = (golden_model("tiny-qwen2"), data.to_str().unwrap(), folder.path().join("out"));
    let off = ["--model", text(&model), "--data", data, "--data-cache", "off", "--reference-cache", "off"];
    let train = ["train", "--loss", "dpo", "--max-steps", "1", "--allow-drops", "--output", out.to_str().unwrap()];
    let run = align(&[&train[..], &off].concat());
    run.refused(3, &["--pairs best-worst"]);
    let run = align(&[&train[..], &off, &["--pairs", "all", "--batch-size", "3"]].concat()).ok();
    assert!(run.stderr.contains("data: 3 rows kept, from 2 records"), "{}", run.stderr);
    assert!(run.stderr.contains("dropped 1: scored answers without a pair"), "{}", run.stderr);
    assert!(std::fs::read_to_string(out.join("config.toml")).unwrap().contains("pairs = \"all\"\n"));
    let scores = align(&[&["score", "--json"][..], &off, &["--pairs", "best-worst"]].concat()).ok().json_lines();
    assert_eq!(scores.len(), 2);
    assert!(
        scores[0]["chosen"].is_object() && scores[1]["dropped"].as_str().unwrap().contains("--pairs"),
        "{scores:?}"
    );
    let pairs =
        lines_in(folder.path(), "pairs.jsonl", &[json!({"prompt": "Rain?", "chosen": " Yes.", "rejected": " No."})]);
    let score = ["score", "--model", text(&model), "--data", pairs.to_str().unwrap(), "--data-cache", "off"];
    let note =
        "--pairs all has no effect: it is for scored answers, and the rows are {prompt, chosen, rejected} of strings\n";
    let with_pairs = align(&[&score[..], &["--reference-cache", "off", "--pairs", "all"]].concat()).ok();
    assert!(with_pairs.stderr.contains(note), "{}", with_pairs.stderr);
    let eval =
        align(&[&["eval", "--json", "--loss", "ipo", "--allow-drops"][..], &off, &["--pairs", "all"]].concat()).ok();
    assert!(eval.json().is_object());
    let all_scores = align(&[&["eval", "--loss", "exo_rw"][..], &off, &["--pairs", "all"]].concat());
    assert_eq!(all_scores.code, Some(3), "{}", all_scores.stderr);
}

/// Checks that `inspect --row 0` prints the same tokens for a file with this text as for the JSON row `row`.
fn same_tokens(name: &str, text: &str, row: &Value, flags: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join(name);
    std::fs::write(&data, text).unwrap();
    let plain = lines_in(folder.path(), "plain.jsonl", std::slice::from_ref(row));
    let expected = spelled(inspect("tiny-qwen2", plain.to_str().unwrap(), &[]));
    assert_eq!(spelled(inspect("tiny-qwen2", data.to_str().unwrap(), flags)), expected, "{text}");
}

#[test]
fn cells_of_csv_are_read_as_texts_of_jsonl_are() {
    let texts = json!({"prompt": "JSON, \"please\":\nnow", "chosen": "{\"a\": 1}", "rejected": "[\"b\"]"});
    let text =
        "\u{FEFF}prompt;chosen;rejected\r\n\"JSON, \"\"please\"\":\nnow\";\"{\"\"a\"\": 1}\";\"[\"\"b\"\"]\"\r\n";
    same_tokens("rows.csv", text, &texts, &[]);
    let turns = json!({"prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]});
    let text = "question\tchosen\trejected\nq\t\"[{'role': 'assistant', 'content': 'a'}]\"\t\"{\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"b\"\"}\"\n";
    same_tokens("rows.tsv", text, &turns, &[]);
    let best = json!({"prompt": "p", "chosen": " b", "rejected": " a"});
    let text = "prompt,completions,rewards\np,\"[\"\" a\"\", \"\" b\"\"]\",\"[1, 2]\"\n";
    same_tokens("rows.csv", text, &best, &["--pairs", "best-worst"]);
}

#[test]
fn lists_tools_and_roles_are_found_in_texts_too() {
    let best = json!({"prompt": "p", "chosen": " b", "rejected": " a"});
    for (completions, rewards) in [(r#"[" a", " b"]"#, "[0.5, 2]"), ("[' a', ' b']", "(0, 1)")] {
        let row = json!({"prompt": "p", "completions": completions, "rewards": rewards});
        same_tokens("rows.jsonl", &row.to_string(), &best, &["--pairs", "all"]);
    }
    let pair = |prompt: Value, says: &str| json!({"prompt": prompt, "chosen": [turn(says, "a")], "rejected": [turn("assistant", "b")]});
    let asked = pair(json!([turn("user", "q")]), "assistant");
    same_tokens("rows.jsonl", &pair(json!([turn(" user", "q")]), "assistant ").to_string(), &asked, &[]);
    same_tokens("rows.jsonl", &pair(json!("[{'role': 'User ', 'content': 'q'}]"), " GPT").to_string(), &asked, &[]);
    // the tools as a list, as a string of JSON, and as Python prints them
    let with_tools = |tools: Value| {
        let mut row = asked.clone();
        row.as_object_mut().unwrap().insert("tools".to_owned(), tools);
        row
    };
    let folder = tempfile::tempdir().unwrap();
    let template = data_case("parquet-json-type/tools.jinja");
    let tokens = |tools: Value| {
        let data = lines_in(folder.path(), "tools.jsonl", &[with_tools(tools)]);
        spelled(inspect("tiny-qwen2", data.to_str().unwrap(), &["--chat-template", template.to_str().unwrap()]))
    };
    let tools = json!([{"type": "function", "function": {"name": "now", "strict": true}}]);
    let expected = tokens(tools.clone());
    assert!(expected.0.contains("now"), "{expected:?}");
    assert_eq!(tokens(tools.to_string().into()), expected);
    assert_eq!(tokens(json!("[{'type': 'function', 'function': {'name': 'now', 'strict': True}}]")), expected);
}

#[test]
fn a_null_prompt_is_none_beside_another_column() {
    let texts = json!({"prompt": "q", "chosen": " a", "rejected": " b"});
    let row = json!({"prompt": null, "question": "q", "chosen": " a", "rejected": " b"});
    same_tokens("rows.jsonl", &row.to_string(), &texts, &[]);
    let turns = json!({"prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]});
    let asked = json!([{"from": "human", "value": "q"}]);
    let row = json!({"prompt": null, "messages": null, "conversations": asked, "chosen": "a", "rejected": "b"});
    same_tokens("rows.jsonl", &row.to_string(), &turns, &[]);
}

#[test]
fn null_columns_of_other_shapes_are_none() {
    let conversation = [turn("user", "q"), turn("assistant", "a")];
    let plain = json!({"messages": conversation});
    let row = json!({"messages": conversation, "prompt": null, "chosen": null, "rejected": null, "completions": null});
    same_tokens("rows.jsonl", &row.to_string(), &plain, &[]);
    let plain = json!({"prompt": "p", "completion": " a"});
    let row = json!({"prompt": "p", "completion": " a", "chosen": null, "rejected": null, "text": null});
    same_tokens("rows.jsonl", &row.to_string(), &plain, &[]);
    // a missing answer of a pair is reported, and so is a missing label
    let folder = tempfile::tempdir().unwrap();
    for (row, words) in [
        (json!({"prompt": "p", "chosen": "a", "rejected": null, "text": "t"}), "`rejected` is null"),
        (json!({"prompt": "p", "completion": "a", "label": null, "chosen": null}), "`label` is null"),
        (json!({"prompt": "p", "chosen": null, "rejected": null}), "`chosen` is null"),
    ] {
        let data = lines_in(folder.path(), "rows.jsonl", &[row]);
        let run = inspect("tiny-qwen2", data.to_str().unwrap(), &[]);
        run.refused(3, &[words]);
    }
}

#[test]
fn labels_of_csv_may_be_numbers_with_a_point() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.csv");
    std::fs::write(&data, "prompt,completion,label\np,a,1.0\np,b,0\np,c,FALSE\np,d, true\n").unwrap();
    let run =
        align(&["score", "--model", text(&golden_model("tiny-qwen2")), "--data", text(&data), "--data-cache", "off"]);
    assert!(run.ok().stderr.contains("data: 4 rows kept, from 4 records ({prompt, completion, label} of strings)"));
    std::fs::write(&data, "prompt,completion,label\np,a,0.5\n").unwrap();
    let run = inspect("tiny-qwen2", data.to_str().unwrap(), &[]);
    assert!(run.stderr.contains("rows.csv:2: `label` is \"0.5\", expected true or false, or 1 or 0"), "{}", run.stderr);
}

/// If a turn marker ends the prompts, a line names it.
#[test]
fn what_the_prompts_end_with_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let shared = format!("\n\nHuman: Lake {i}?\n\nAssistant: Sure.\nStep 1: add");
        json!({"chosen": format!("{shared} water"), "rejected": format!("{shared} sand")})
    };
    let data = lines_in(folder.path(), "rows.jsonl", &(0..24).map(row).collect::<Vec<_>>());
    let said = |data: &Path| {
        let (model, data) = (golden_model("tiny-qwen2"), data.to_str().unwrap());
        align(&["inspect", "--model", text(&model), "--data", data, "--data-cache", "off"]).ok().stderr
    };
    assert!(said(&data).contains("\ndata: the prompts end with \"Assistant:\"\n"), "{}", said(&data));
    let facts: Value = serde_json::from_str(&inspect("tiny-qwen2", data.to_str().unwrap(), &[]).ok().stdout).unwrap();
    assert_eq!(facts["data"]["prompts_end_with"], "Assistant:");
    let plain = lines_in(folder.path(), "plain.jsonl", &[json!({"prompt": "q", "chosen": "a", "rejected": "b"})]);
    assert!(!said(&plain).contains("end with \""), "{}", said(&plain));
}

/// The system text is put before a prompt only once.
#[test]
fn a_prompt_that_has_the_systems_text_gets_no_second_one() {
    let (system, text) = ("You are kind.", json!({"prompt": "You are kind.\n\nq", "chosen": "a", "rejected": "b"}));
    let mut with = text.clone();
    with["system"] = format!(" {system}\n").into();
    same_tokens("rows.jsonl", &with.to_string(), &text, &[]);
    let marked = json!({"prompt": "<sys>You are kind.</sys> q", "chosen": "a", "rejected": "b"});
    let mut with = marked.clone();
    with["system"] = system.into();
    same_tokens("rows.jsonl", &with.to_string(), &marked, &[]);
    let turns = json!({"prompt": [turn("user", "You are kind.\nq")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]});
    let mut with = turns.clone();
    with["system"] = system.into();
    same_tokens("rows.jsonl", &with.to_string(), &turns, &[]);
    // a short system text counts only at the start of the prompt
    same_tokens(
        "rows.jsonl",
        &json!({"system": "No", "prompt": "Is it? No", "chosen": "a", "rejected": "b"}).to_string(),
        &json!({"prompt": "No\n\nIs it? No", "chosen": "a", "rejected": "b"}),
        &[],
    );
}

#[test]
fn the_column_of_the_system_may_hold_its_turn() {
    let row = |system: Value| json!({"system": system, "prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]});
    let mut plain = row(json!("Be brief."));
    for system in [
        turn("system", "Be brief."),
        json!([turn("system", "Be brief.")]),
        json!("[{'role': 'system', 'content': 'Be brief.'}]"),
        json!(["Be ", {"type": "text", "text": "brief."}]),
        json!({"from": "system", "value": "Be brief."}),
    ] {
        same_tokens("rows.jsonl", &row(system).to_string(), &plain, &[]);
    }
    plain.as_object_mut().unwrap().remove("system");
    same_tokens("rows.jsonl", &row(json!([])).to_string(), &plain, &[]);
    for (system, words) in [
        (turn("user", "x"), "`system` must be a text, or one turn of the role `system`"),
        (
            json!([turn("system", "x"), turn("system", "y")]),
            "`system` must be a text, or one turn of the role `system`",
        ),
        (json!({"model": "m"}), "`system.role` is null"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = lines_in(folder.path(), "rows.jsonl", &[row(system)]);
        let run = inspect("tiny-qwen2", data.to_str().unwrap(), &[]);
        run.refused(3, &[words]);
    }
}

#[test]
fn messages_name_the_columns_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |row: Value, more: &[&str], words: &str| {
        let data = lines_in(folder.path(), "rows.jsonl", std::slice::from_ref(&row));
        let run = inspect("tiny-qwen2", data.to_str().unwrap(), more);
        assert!(run.code == Some(3) && run.stderr.contains(words), "{row}: {}", run.stderr);
    };
    let asked = json!({"messages": [turn("user", "q")]});
    let says = json!([turn("assistant", "a")]);
    let same = json!({"input": asked, "preferred_output": says, "non_preferred_output": says});
    refused(same, &[], "rows.jsonl:1: `preferred_output` and `non_preferred_output` are equal");
    refused(
        json!({"input": asked, "preferred_output": says}),
        &[],
        "rows.jsonl:1: `non_preferred_output` is missing; the other columns are those of {prompt, chosen, rejected}",
    );
    let no_prompt =
        json!({"preferred_output": [turn("user", "x")], "non_preferred_output": [turn("user", "y")], "input": null});
    refused(no_prompt, &[], "`preferred_output` and `non_preferred_output` have no first turn in common");
    refused(
        json!({"preferred_output": "One.", "non_preferred_output": "Two."}),
        &[],
        "rows.jsonl:1: `preferred_output` and `non_preferred_output` are texts without a prompt column",
    );
    refused(
        json!({"prompt": "p", "answers": ["a", "b"], "scores": [1]}),
        &["--columns", "completions=answers,rewards=scores"],
        "`answers` has 2, but `scores` has 1",
    );
    refused(
        json!({"instruction": "Add.", "input": "1 1", "output": "2"}),
        &[],
        "if its answer is the column `output`, which is not read, give --columns completion=output",
    );
    let safe = json!({"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1});
    refused(
        safe,
        &[],
        r#"jq -c '. + {chosen: .["response_\(.better_response_id)"], rejected: .["response_\(1 - .better_response_id)"]}'"#,
    );
    refused(
        json!({"prompt": "p", "answer_a": "a", "answer_b": "b"}),
        &[],
        "--columns chosen=answer_a,rejected=answer_b",
    );
}

#[test]
fn a_flag_that_changes_nothing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (row, words) in [
        (json!({"prompt": "p", "chosen": " a", "rejected": " b"}), "the rows have their prompt in the column `prompt`"),
        (
            json!({"question": "p", "chosen": " a", "rejected": " b"}),
            "the rows have their prompt in the column `question`",
        ),
        (
            json!({"prompt": "p", "completion": " a"}),
            "it is for pairs without a prompt, and the rows are {prompt, completion}",
        ),
    ] {
        let data = lines_in(folder.path(), "rows.jsonl", &[row]);
        let run = inspect("tiny-qwen2", data.to_str().unwrap(), &["--implicit-prompt"]).ok();
        let note = format!("note: --implicit-prompt has no effect: {words}");
        assert!(run.stderr.contains(&note), "{}", run.stderr);
    }
}
