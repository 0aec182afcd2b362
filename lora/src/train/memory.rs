//! How many layers keep what their backward pass needs.

use align_engine::model::Model;
use align_kernels::Precision;

/// Share of the memory that is free at the start which kept activations may fill. The rest is for the mapped weights' pages,
/// the step's scratch and everything else on the machine.
const SHARE: f64 = 0.4;

/// Layers to keep for a backward pass over `policy_rows` rows when `free_bytes` of memory are free; the others are recomputed,
/// which costs one more forward pass of those layers and changes no bit of the result.
pub fn layers_kept(model: &Model, policy_rows: usize, precision: Precision, free_bytes: u64) -> usize {
    let layers = model.config().num_hidden_layers;
    let per_layer = policy_rows as u64 * model.kept_bytes_per_row(precision);
    if per_layer == 0 {
        return layers;
    }
    let fit = (free_bytes as f64 * SHARE) as u64 / per_layer;
    layers.min(usize::try_from(fit).unwrap_or(layers))
}

/// Bytes that this process could still get without swapping: the system's figure, or less where a control group says so.
pub fn free_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(FALLBACK, |kib| kib * 1024);
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current");
    match (limit, used) {
        (Some(limit), Some(used)) => available.min(limit.saturating_sub(used)),
        _ => available,
    }
}

/// Where the system does not tell: little, so that layers are recomputed rather than memory exhausted.
const FALLBACK: u64 = 2 << 30;
