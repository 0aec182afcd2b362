//! Reports on the adapters that a command uses or finds.

use super::say;
use align_lora::adapter::{Adapter, StrayAdapter};
use std::path::Path;

/// Reports what a user should know about the adapter in `dir`. `base` is the hash of the base it is used on,
/// if that is known.
pub(crate) fn read_adapter(dir: &Path, adapter: &Adapter, base: Option<&str>) {
    let shown = dir.display();
    if let Some(base) = base {
        other_base(dir, adapter.base(), base, adapter.config().base_model_name_or_path.as_deref());
    }
    if adapter.not_run() > 0 {
        say!(
            "adapter: {} of the {} updates in {shown} are for parts that this program does not run (a vision tower); they \
             change no text",
            adapter.not_run(),
            adapter.not_run() + adapter.set().iter().count()
        );
    }
}

/// Warns if the adapter in `dir` was trained on a base with the hash `own`, but is used on a base with another hash, `base`.
pub(crate) fn other_base(dir: &Path, own: Option<&str>, base: &str, name: Option<&str>) {
    let Some(own) = own.filter(|own| *own != base) else { return };
    let named = name.map_or(String::new(), |name| format!(", which adapter_config.json calls `{name}`"));
    say!(
        "warning: {}: the adapter was trained on other weights than those of the model (hash {}, here {}){named}; its update \
         does not fit these",
        dir.display(),
        short(own),
        short(base)
    );
}

/// Warns about an adapter beside a model's weights, unless the user asked for that adapter.
pub(crate) fn stray_adapter(model: &Path, adapter: Option<&Path>) {
    let canonical = |path: &Path| std::fs::canonicalize(path).ok();
    if adapter.is_some_and(|adapter| canonical(adapter) == canonical(model)) {
        return;
    }
    let shown = model.display();
    match StrayAdapter::of(model) {
        None => {}
        Some(StrayAdapter::Whole) => say!(
            "warning: --model {shown}: the folder also holds an adapter (adapter_config.json), which is not applied; to apply \
             it give --adapter {shown}"
        ),
        Some(StrayAdapter::ConfigAlone) => say!(
            "warning: --model {shown}: the folder holds an adapter_config.json without the adapter's weights, which is not \
             used; other programs take the folder for an adapter and do not load it: remove that file"
        ),
    }
}

/// Returns the beginning of a hash, long enough to tell two hashes apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
