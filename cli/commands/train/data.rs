//! Opens the data of a run and reports what was found.

use crate::args::{OnBadRowChoice, TrainArgs};
use crate::commands::train::options::demo_evaluates;
use crate::config_file::NamedFiles;
use crate::data::{self, DataOptions};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::report::{self, say};
use crate::run_record;
use align_data::{ColumnMap, Dataset, Encoder, Reading, Rejects, RowKind};
use align_lora::objective::Objective;
use std::path::PathBuf;

/// The data of a run.
pub(crate) struct RunData {
    pub train: Dataset,
    pub eval: Option<Dataset>,
    /// The texts of `--reference-data`.
    pub texts: Option<Dataset>,
    /// Number of prompts that `--eval-fraction` holds out.
    held_out_prompts: Option<usize>,
    /// The rows that are left out.
    pub rejects: Rejects,
    /// The files that the flags name.
    pub named: NamedFiles,
}

impl RunData {
    /// Opens the files of `--data`, `--eval-data` and `--reference-data`, or those of the demo.
    ///
    /// # Errors
    /// [`CliError`] if the flags about rows contradict each other, or if the files cannot be found, read or used by the
    /// objective.
    pub(crate) fn open(args: &TrainArgs, loaded: &LoadedModel, objective: &Objective) -> Result<RunData, CliError> {
        let kind = objective.data();
        let files = loaded.data_files(&args.data, |demo| match kind {
            RowKind::Labelled => demo.labelled.clone(),
            RowKind::Scored => demo.scored.clone(),
            RowKind::Pair | RowKind::Sequence => demo.pairs_train.clone(),
        })?;
        let eval_files = match &loaded.demo {
            _ if args.eval_fraction.is_some() => Vec::new(),
            Some(demo) if args.eval_data.is_empty() && demo_evaluates(args, objective) => {
                vec![demo.paths.pairs_eval.clone()]
            }
            _ => data::data_files(&args.eval_data)?,
        };
        let texts_files = data::data_files(&args.reference_data)?;

        let template = loaded.template(&args.model)?;
        let (template, max_length) = (template.as_deref(), loaded::max_length(&args.data));
        let mut rejects = Rejects::default();
        let mut open = |files: &[PathBuf], kind: RowKind, encoder: Encoder| -> Result<Dataset, CliError> {
            let (demo, drops) = (args.model.demo, args.drops.into());
            let options = DataOptions { args: &args.data, kind: Some(kind), demo, drops };
            let wanted = args.data.on_bad_row == OnBadRowChoice::Skip;
            let data = data::data(files, encoder, &options, wanted.then_some(&mut rejects))?;
            Ok(data.with_unpaired_order(args.unpaired_order.into()))
        };
        let encoder = || -> Result<Encoder, CliError> {
            let encoder = loaded.data_encoder(template, max_length, &args.data)?;
            Ok(encoder.with_long_answers(loaded::long_answers(objective)))
        };
        let mut train = open(&files, kind, encoder()?)?;
        let mut eval = None;
        if !eval_files.is_empty() {
            let encoder = encoder()?.with_decided(train.survey().decided.clone());
            eval = Some(open(&eval_files, kind, encoder)?);
        }
        let mut texts = None;
        if !texts_files.is_empty() {
            // --columns, --pairs and --sft-on are about the rows of --data, not about these texts
            let reading = Reading { columns: ColumnMap::default(), pairs: None, ..args.data.reading()? };
            let encoder = loaded.encoder(template, max_length)?.with_reading(reading);
            texts = Some(open(&texts_files, RowKind::Sequence, encoder)?);
        }
        let mut held_out_prompts = None;
        if let Some(fraction) = args.eval_fraction {
            let split = train.split(fraction, args.seed)?;
            held_out_prompts = Some(split.held_out_prompts);
            (train, eval) = (split.train, Some(split.held_out));
        }
        for (label, data) in [("data", Some(&train)), ("evaluation data", eval.as_ref())] {
            if let Some(data) = data {
                report::beyond_positions(label, data, loaded.model.config());
            }
        }
        let given = |flag: &[PathBuf], files: Vec<PathBuf>| if flag.is_empty() { Vec::new() } else { files };
        let named = NamedFiles {
            data: given(&args.data.data, files),
            eval: given(&args.eval_data, eval_files),
            texts: texts_files,
        };
        Ok(RunData { train, eval, texts, held_out_prompts, rejects, named })
    }

    /// Reports what was found in the files.
    ///
    /// # Errors
    /// [`CliError::Input`] for the record of a run that cannot be read.
    pub(crate) fn report(&self, args: &TrainArgs) -> Result<(), CliError> {
        let (reading, survey) = (&args.data.reading, self.train.survey());
        report::data("data", survey, reading);
        run_record::compare_form(args.model.adapter.as_deref(), survey.form())?;
        match (&self.eval, self.held_out_prompts) {
            (Some(eval), Some(prompts)) => say!(
                "evaluation data: {} of {prompts} prompts held out (--eval-fraction, seed {}), {} trained on",
                report::rows(eval.len() as u64),
                args.seed,
                report::rows(self.train.len() as u64)
            ),
            (Some(eval), None) => {
                report::data("evaluation data", eval.survey(), reading);
                report::other_form(survey, eval.survey());
            }
            (None, _) => {}
        }
        if let Some(texts) = &self.texts {
            report::data("reference data", texts.survey(), reading);
        }
        Ok(())
    }
}
