//! Shows what the demo's model answers before and after training.

use crate::args::TrainArgs;
use crate::commands::{decode, print};
use crate::error::CliError;
use crate::loaded::{LoadedModel, MAX_LENGTH};
use align_data::{EncodedPrompt, Encoder, prompts};
use align_engine::adapters::AdapterSet;
use align_engine::generate::{Request, Sampling, generate};
use align_engine::model::stop_token_ids;
use std::sync::Arc;

/// How many prompts are continued.
const PROMPTS: usize = 3;

/// Some held-out prompts of the demo, to see what training changes.
pub(crate) struct DemoPrompts {
    encoder: Encoder,
    prompts: Vec<EncodedPrompt>,
    request: Request,
}

impl DemoPrompts {
    /// Encodes the first held-out prompts of the demo. `None` if the run does not use the demo.
    ///
    /// # Errors
    /// [`CliError`] if the prompts cannot be read or encoded, or if the ids of the stop tokens cannot be read.
    pub(crate) fn new(args: &TrainArgs, loaded: &LoadedModel) -> Result<Option<DemoPrompts>, CliError> {
        let Some(demo) = &loaded.demo else { return Ok(None) };
        let encoder = loaded.encoder(None, args.data.max_length.unwrap_or(MAX_LENGTH))?;
        let prompts = prompts(std::slice::from_ref(&demo.paths.pairs_eval), &encoder, Some(PROMPTS))?;
        let request = Request {
            max_new_tokens: 48,
            min_new_tokens: 0,
            stop: stop_token_ids(&loaded.dir, loaded.model.config())?,
            sampling: Sampling::GREEDY,
            precision: args.device.precision().into(),
            first_sequence: 0,
        };
        Ok(Some(DemoPrompts { encoder, prompts, request }))
    }

    /// Prints how the model continues the prompts with `adapter`.
    ///
    /// # Errors
    /// [`CliError`] if generation, decoding or printing fails. A closed stdout is no error.
    pub(crate) fn print(
        &self,
        when: &str,
        loaded: &LoadedModel,
        adapter: Option<&Arc<AdapterSet>>,
    ) -> Result<(), CliError> {
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let completions = generate(&loaded.model, adapter, &ids, &self.request, |_, _| true)?;
        let text = |ids: &[u32]| decode(&self.encoder, ids);
        let mut lines = format!("{when}:\n");
        for (prompt, completion) in self.prompts.iter().zip(&completions) {
            lines += &format!("  {}\n    -> {}\n", text(&prompt.ids)?.trim(), text(&completion.tokens)?.trim());
        }
        match print(lines.as_bytes()) {
            // stdout is closed, so nobody reads the samples; the run continues anyway
            Err(CliError::ClosedOutput) => Ok(()),
            printed => printed,
        }
    }
}
