//! `--device cuda`, on the PTX machine. With `ALIGN_TEST_CUDA=driver` the tests are for the first card of the real driver.

mod equalities;
mod failures;
mod goldens;
mod runs;

use crate::align::{Run, command};
use align_kernels::Device;
use ptx_machine::driver as machine;
use serde_json::{Value, json};
use std::process::Command;

/// Opens a new card of the PTX machine in this process, runs the test on it, and checks that memcheck found nothing.
pub(crate) fn on_a_card<T>(test: impl FnOnce(&Device) -> T) -> T {
    let card = machine::install().map(|driver| (driver, driver.card(LATE)));
    let device = Device::cuda_apart(card.map_or(0, |(_, ordinal)| ordinal), Some(1)).expect("the card can be opened");
    let result = test(&device);
    device.synchronize().expect("all work was done");
    if let Some((driver, ordinal)) = card {
        let reports = driver.tally(ordinal).reports;
        assert!(reports.is_empty(), "{}", reports.join("\n"));
    }
    result
}

/// A folder with the driver of the PTX machine, under the names that programs ask for.
pub(crate) struct Driver(tempfile::TempDir);

impl Driver {
    pub(crate) fn new() -> Driver {
        let folder = tempfile::tempdir().unwrap();
        let library = machine::library().expect("cargo builds libptx_driver.so with the tests");
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::fs::copy(&library, folder.path().join(name)).unwrap();
        }
        Driver(folder)
    }

    /// Runs `align-cli` with a card of this description. The user's cache folder is empty.
    pub(crate) fn run(&self, card: &str, arguments: &[&str]) -> Run {
        let caches = tempfile::tempdir().unwrap();
        Run::of(self.command(card, arguments).env("XDG_CACHE_HOME", caches.path()).output().unwrap())
    }

    /// Makes the command that runs `align-cli` with a card of this description.
    fn command(&self, card: &str, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        if is_real() {
            assert_eq!(card, LATE, "a real card has no description");
        } else {
            command.env("LD_LIBRARY_PATH", self.0.path()).env("PTX_MACHINE", card);
        }
        command
    }
}

/// Describes a card on which queued work runs as late as possible, so that a missing wait shows in the numbers.
pub(crate) const LATE: &str = "mode=late;memory=1000000000";

/// Whether the tests are for a real card.
pub(crate) fn is_real() -> bool {
    std::env::var("ALIGN_TEST_CUDA").is_ok_and(|which| which == "driver")
}

/// The golden models, one of each family and of each way to scale positions.
pub(crate) const MODELS: [&str; 9] = [
    "tiny-gemma2", "tiny-gemma3", "tiny-llama", "tiny-llama31", "tiny-mistral", "tiny-phi3", "tiny-qwen2",
    "tiny-qwen3", "tiny-yarn",
];

/// Returns pairs that have at most 48 tokens in every model's tokenizer.
pub(crate) fn short_pairs() -> Vec<Value> {
    let pair = |prompt, chosen, rejected| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    vec![
        pair("What is two and two?", " Four.", " It is five, I think."),
        pair("Name a colour.", " Blue, like the sky.", " Seven."),
        pair("Say something kind.", " You did well.", " No."),
        pair("Where do fish live?", " In water.", " In trees, all of them."),
    ]
}
