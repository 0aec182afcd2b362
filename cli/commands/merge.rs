//! `merge`: a model directory with the adapter in its weights.

use crate::args::MergeArgs;
use crate::error::CliError;
use align_engine::model::locate;
use align_kernels::Device;
use align_lora::adapter::{Existing, Merge};

pub fn run(args: &MergeArgs) -> Result<(), CliError> {
    let device = Device::cpu(args.threads.map(|threads| threads as usize))?;
    let model = locate(&args.model)?;
    let existing = if args.overwrite { Existing::Replace } else { Existing::Keep };
    let merge = Merge { model: &model.path, adapter: &args.adapter, output: &args.output, existing };
    let report = device.clone().install(|| merge.run(&device, &mut |_, _| ()))?;
    let (adapter, output) = (args.adapter.display(), args.output.display());
    eprintln!("merged {adapter} into {model}: {output}");
    let share = 100.0 * report.changed as f64 / report.elements.max(1) as f64;
    eprintln!(
        "  {} matrices, {share:.1} % of their {} numbers changed, by at most {:.3e}; {} other files copied",
        report.merged, report.elements, report.max_delta, report.copied
    );
    for path in &report.left_out {
        eprintln!("  not copied: {}", path.display());
    }
    Ok(())
}
