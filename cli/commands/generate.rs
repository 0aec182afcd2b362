//! `generate`: continue prompts, or chat.

use super::{print, print_json};
use crate::args::GenerateArgs;
use crate::data;
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::report::{self, say};
use crate::run_record;
use align_data::{EncodedPrompt, Encoder, Form, Prompts, SpecialTokens, Text, Texts};
use align_engine::adapters::AdapterSet;
use align_engine::generate::{Completion, Finish, Random, Request, Sampling, generate};
use align_engine::model::stop_token_ids;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    check(args)?;
    let reading = args.reading.reading()?;
    let device = loaded::device(&args.device)?;
    device.clone().install(|| {
        let loaded = loaded::model(&args.model, &device)?;
        let adapter = args.model.adapter.as_ref().map(|dir| loaded.adapter(dir)).transpose()?;
        let adapter = adapter.as_ref().map(|adapter| adapter.set().clone());
        let encoder = loaded.encoder(loaded.template(&args.model)?.as_deref(), u64::from(u32::MAX))?;
        let encoder = run_record::reading_as(args.model.adapter.as_deref(), encoder.with_reading(reading))?;
        let request = request(args, &loaded)?;
        if args.limit.is_some() && args.data.is_empty() && loaded.demo.is_none() {
            return Err(CliError::Usage("--limit counts the rows of --data, which is missing".into()));
        }
        let dir = args.model.adapter.as_deref();
        match prompts(args, &loaded, &encoder)? {
            Some(prompts) => continue_all(args, &loaded, adapter.as_ref(), &encoder, &prompts, &request),
            None => {
                let form = user_turn(&encoder, args.reading.no_chat, "")?.form();
                run_record::compare_form_of_prompt(dir, form, args.reading.no_chat)?;
                chat(&loaded, adapter.as_ref(), &encoder, args.reading.no_chat, request)
            }
        }
    })
}

/// Finds the prompts. `None` if nothing says what to continue: then the command starts a chat.
fn prompts<'e>(
    args: &GenerateArgs,
    loaded: &LoadedModel,
    encoder: &'e Encoder,
) -> Result<Option<Source<'e>>, CliError> {
    let dir = args.model.adapter.as_deref();
    let limit = args.limit.map(|limit| limit as usize);
    if let Some(text) = prompt(args)? {
        let prompt = with_system(encoder, user_turn(encoder, args.reading.no_chat, &text)?);
        run_record::compare_form_of_prompt(dir, prompt.form(), args.reading.no_chat)?;
        let ids = encoder.encode_prompt(&prompt).map_err(|error| CliError::Usage(error.to_string()))?;
        if ids.is_empty() {
            return Err(CliError::Input("the prompt has no token, nothing to continue".into()));
        }
        return Ok(Some(Source::Typed(EncodedPrompt { row: 0, id: None, ids })));
    }
    if !args.data.is_empty() {
        let marker = encoder.reading().decided.turn_marker.clone();
        let prompts = Prompts::open(&data::data_files(&args.data)?, encoder, limit);
        let prompts = prompts.map_err(|error| data::of_other_rows(error, marker.as_ref()))?;
        report::turn_marker_of_run(marker.as_ref(), prompts.survey());
        report::prompts(prompts.survey(), &args.reading);
        run_record::compare_form(dir, prompts.survey().form())?;
        return Ok(Some(Source::Data(Box::new(prompts))));
    }
    let Some(demo) = &loaded.demo else { return Ok(None) };
    let files = std::slice::from_ref(&demo.paths.pairs_eval);
    Ok(Some(Source::Data(Box::new(Prompts::open(files, encoder, Some(limit.unwrap_or(DEMO_PROMPTS)))?))))
}

fn continue_all(
    args: &GenerateArgs,
    loaded: &LoadedModel,
    adapter: Option<&Arc<AdapterSet>>,
    encoder: &Encoder,
    prompts: &Source<'_>,
    request: &Request,
) -> Result<(), CliError> {
    let (mut new_tokens, mut elapsed) = (0, Duration::ZERO);
    for start in (0..prompts.len()).step_by(args.batch_size as usize) {
        let batch = prompts.get(start..prompts.len().min(start + args.batch_size as usize))?;
        let ids: Vec<Vec<u32>> = batch.iter().map(|prompt| prompt.ids.clone()).collect();
        let request = Request { first_sequence: start as u64, ..request.clone() };
        let start = Instant::now();
        let completions = generate(&loaded.model, adapter, &ids, &request, |_, _| true)?;
        elapsed += start.elapsed();
        new_tokens += completions.iter().map(|completion| completion.tokens.len() as u64).sum::<u64>();
        for (prompt, completion) in batch.iter().zip(&completions) {
            show(args, encoder, prompt, completion)?;
        }
    }
    report::generated(prompts.len() as u64, new_tokens, elapsed);
    Ok(())
}

/// How many prompts of the demo are continued if no limit is given.
const DEMO_PROMPTS: usize = 5;

/// Where prompts come from.
enum Source<'a> {
    Typed(EncodedPrompt),
    Data(Box<Prompts<'a>>),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Source::Typed(_) => 1,
            Source::Data(prompts) => prompts.len(),
        }
    }

    fn get(&self, records: Range<usize>) -> Result<Vec<EncodedPrompt>, CliError> {
        match self {
            Source::Typed(prompt) => Ok(vec![prompt.clone()]),
            Source::Data(prompts) => Ok(prompts.get(records)?),
        }
    }
}

/// Returns the text of `--prompt`, or the text on stdin if nothing else says what to continue. `None` if there is neither.
fn prompt(args: &GenerateArgs) -> Result<Option<String>, CliError> {
    let mut stdin = std::io::stdin();
    if args.prompt.is_some() || !args.data.is_empty() || args.model.demo || stdin.is_terminal() {
        return Ok(args.prompt.clone());
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).map_err(|error| CliError::Input(format!("the prompt on stdin: {error}")))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(CliError::Usage("nothing to continue: give --prompt, --data or a text on stdin".into()));
    }
    Ok(Some(text.to_owned()))
}

fn check(args: &GenerateArgs) -> Result<(), CliError> {
    let has_rows = !args.data.is_empty() || args.model.demo;
    let is_positive = |number: f32| number > 0.0 && number.is_finite();
    let faults = [
        (!is_positive(args.temperature), "--temperature must be above 0; greedy is the default"),
        (!(args.top_p > 0.0 && args.top_p <= 1.0), "--top-p must be above 0 and at most 1"),
        (!(0.0..=1.0).contains(&args.min_p), "--min-p must be between 0 and 1"),
        (!is_positive(args.repetition_penalty), "--repetition-penalty must be above 0"),
        (args.min_new_tokens > args.max_new_tokens, "--min-new-tokens is above --max-new-tokens"),
        (!has_rows && !args.reading.columns.is_empty(), "--columns names columns of --data, which is missing"),
        (!has_rows && args.reading.implicit_prompt, "--implicit-prompt is about the rows of --data, which is missing"),
    ];
    match faults.into_iter().find(|(is_wrong, _)| *is_wrong) {
        Some((_, what)) => Err(CliError::Usage(what.to_owned())),
        None => Ok(()),
    }
}

fn request(args: &GenerateArgs, loaded: &LoadedModel) -> Result<Request, CliError> {
    let random = args.sample.then_some(Random {
        temperature: args.temperature,
        top_k: args.top_k as usize,
        top_p: args.top_p,
        min_p: args.min_p,
        seed: args.seed,
    });
    let (stop, rows) = (stop_token_ids(&loaded.dir, loaded.model.config())?, loaded.model.config().vocab_size);
    if !stop.is_empty() && stop.iter().all(|id| *id as usize >= rows) {
        say!(
            "warning: {}: `eos_token_id` {stop:?} is beyond the vocabulary of {rows} tokens: only --max-new-tokens ends a text",
            loaded.dir.display()
        );
    }
    Ok(Request {
        max_new_tokens: args.max_new_tokens as usize,
        min_new_tokens: args.min_new_tokens as usize,
        stop,
        sampling: Sampling { random, repetition_penalty: args.repetition_penalty },
        precision: args.device.precision().into(),
        first_sequence: 0,
    })
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Makes a prompt from what the user types: a turn if the model has a chat template or --chat is given, otherwise plain text. With
/// `as_text` it is always plain text.
fn user_turn(encoder: &Encoder, as_text: bool, text: &str) -> Result<Text, CliError> {
    if as_text {
        return Ok(Text::Plain(text.to_owned()));
    }
    if let Some(fault) = encoder.template_fault() {
        return Err(CliError::Input(fault.to_string()));
    }
    Ok(match encoder.supports(Form::Conversational) || encoder.reading().texts == Texts::AsTurns {
        true => Text::Turns(vec![turn("user", text)]),
        false => Text::Plain(text.to_owned()),
    })
}

/// Puts the text of --system before the prompt.
fn with_system(encoder: &Encoder, prompt: Text) -> Text {
    match &encoder.reading().system {
        Some(system) => prompt.with_system(system),
        None => prompt,
    }
}

/// Returns the text of tokens, without special tokens.
///
/// # Errors
/// [`CliError::Runtime`] if the tokenizer fails.
pub(crate) fn decode(encoder: &Encoder, tokens: &[u32]) -> Result<String, CliError> {
    let text = encoder.tokenizer().decode(tokens, SpecialTokens::Skip);
    text.map_err(|error| CliError::Runtime(error.to_string()))
}

fn show(
    args: &GenerateArgs,
    encoder: &Encoder,
    prompt: &EncodedPrompt,
    completion: &Completion,
) -> Result<(), CliError> {
    let text = decode(encoder, &completion.tokens)?;
    if args.json {
        let mut object = json!({
            "row": prompt.row,
            "prompt_tokens": prompt.ids.len(),
            "tokens": completion.tokens,
            "text": text,
            "finish": match completion.finish { Finish::Stop => "stop", Finish::Length => "length" },
        });
        if let Some(id) = &prompt.id {
            object["id"] = id.clone();
        }
        return print_json(&object);
    }
    if args.data.is_empty() && !args.model.demo || args.prompt.is_some() {
        return print(format!("{text}\n").as_bytes());
    }
    print(format!("[{}] {}\n    {}\n", prompt.row, decode(encoder, &prompt.ids)?.trim(), text.trim()).as_bytes())
}

/// Reads lines from the terminal until its input ends, and answers each of them. If [`user_turn`] makes turns of them, the whole
/// conversation is the context of every answer. Otherwise each line is continued by itself.
fn chat(
    loaded: &LoadedModel,
    adapter: Option<&Arc<AdapterSet>>,
    encoder: &Encoder,
    as_text: bool,
    mut request: Request,
) -> Result<(), CliError> {
    let mut turns: Vec<Value> = Vec::new();
    let mut out = std::io::stdout();
    say!("A chat with {}. An empty line starts anew, Ctrl-D ends.", loaded.found);
    loop {
        write!(out, "> ")?;
        out.flush()?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            writeln!(out)?;
            return Ok(());
        }
        let text = line.trim();
        if text.is_empty() {
            turns.clear();
            continue;
        }
        let prompt = match user_turn(encoder, as_text, text)? {
            Text::Turns(turn) => {
                turns.extend(turn);
                Text::Turns(turns.clone())
            }
            plain @ Text::Plain(_) => plain,
        };
        let prompt = with_system(encoder, prompt);
        let ids = encoder.encode_prompt(&prompt).map_err(|error| CliError::Input(error.to_string()))?;
        let mut tokens: Vec<u32> = Vec::new();
        let mut shown = 0;
        let mut failed = None;
        let mut on_token = |_: usize, token: u32| {
            tokens.push(token);
            let result = decode(encoder, &tokens).and_then(|text| {
                // a character may consist of several tokens: it is shown once it is complete
                if !text.ends_with('\u{fffd}') && text.len() > shown {
                    print(&text.as_bytes()[shown..])?;
                    shown = text.len();
                }
                Ok(())
            });
            failed = result.err();
            failed.is_none()
        };
        generate(&loaded.model, adapter, &[ids], &request, &mut on_token)?;
        if let Some(error) = failed {
            return Err(error);
        }
        writeln!(out)?;
        turns.push(turn("assistant", decode(encoder, &tokens)?.trim()));
        request.first_sequence += 1;
    }
}
