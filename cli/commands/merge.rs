//! `merge`: a model directory with the adapter in its weights.

use crate::args::MergeArgs;
use crate::chat_template;
use crate::error::CliError;
use crate::loaded;
use crate::report::{self, Pass, say};
use crate::run_files;
use align_engine::json::shorten;
use align_kernels::Device;
use align_lora::adapter::{Existing, Merge};

/// Maximum number of characters of a system text that the note about it shows.
const SYSTEM_SHOWN: usize = 60;

pub(super) fn run(args: &MergeArgs) -> Result<(), CliError> {
    let device = Device::cpu(args.threads.map(|threads| threads as usize))?;
    let base = loaded::find(args.model.as_deref(), args.demo)?;
    report::stray_adapter(&base.dir, Some(&args.adapter));
    let existing = if args.overwrite { Existing::Replace } else { Existing::Keep };
    let given = chat_template::instead_of_the_models(args.chat_template.as_deref(), Some(&args.adapter), &base.dir)?;
    let template = chat_template::of_merged(given.as_deref(), &base.dir)?;
    let merge = Merge {
        model: &base.dir,
        adapter: &args.adapter,
        output: &args.output,
        existing,
        chat_template: template.as_ref(),
    };
    let mut pass = Pass::new("merging");
    let mut progress = |done: u64, all: u64| pass.at(done, all, "");
    let merged = device.clone().install(|| merge.run(&device, &mut progress))?;
    drop(pass);
    report::model_notes(&merged.notes);
    report::other_base(&args.adapter, merged.trained_on.as_deref(), &merged.base, merged.base_name.as_deref());
    let (adapter, output) = (args.adapter.display(), args.output.display());
    say!("{output}: {}, with {adapter} merged in", base.found);
    let share = 100.0 * merged.changed as f64 / merged.elements.max(1) as f64;
    say!(
        "  {} matrices, {share:.1} % of their {} numbers changed, by at most {:.3e}; {} other files copied",
        merged.merged,
        merged.elements,
        merged.max_delta,
        merged.copied
    );
    if merged.not_run > 0 {
        say!("  {} of them are for parts that this program does not run (a vision tower)", merged.not_run);
    }
    if let Some(template) = &template {
        say!("  chat template: that of {}, instead of the base's", template.origin);
    }
    let options = run_files::options(&args.adapter);
    if let Some(system) =
        options.as_ref().and_then(|options| options.get("system")?.as_str()).filter(|text| !text.is_empty())
    {
        say!(
            "note: the run of {adapter} was trained with a system text, which no file of a model can hold: give it with \
             --system ({})",
            shorten(system, SYSTEM_SHOWN)
        );
    }
    for key in &merged.config_keys {
        say!("  config.json without `{key}`: the weights are not quantised");
    }
    for path in &merged.left_out {
        say!("  not copied: {}", path.display());
    }
    Ok(())
}
