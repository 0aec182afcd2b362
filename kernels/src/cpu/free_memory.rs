//! How much of the host's memory this process could still get.

/// Bytes that this process could still get without swapping: the system's figure, or less if a control group limits it.
pub fn free_bytes() -> u64 {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let of_group = |name: &str| text(&format!("/sys/fs/cgroup/memory.{name}"));
    free_according_to(&text("/proc/meminfo"), &of_group("max"), &of_group("current"), &of_group("stat"))
}

/// Returns what [`free_bytes`] does, from the content of the system's `meminfo` and of a control group's `memory.max`,
/// `memory.current` and `memory.stat`. The content of a file that does not exist is empty.
fn free_according_to(meminfo: &str, limit: &str, used: &str, stat: &str) -> u64 {
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(FALLBACK, |kib| kib.saturating_mul(1024));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (Some(limit), Some(used)) = (number(limit), number(used)) else { return available };
    // pages of files, such as the mapped weights, count as used but are dropped when memory is needed
    let of_files = |name: &str| {
        let lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(key, _)| *key == name).find_map(|(_, value)| number(value)).unwrap_or(0)
    };
    let used = used.saturating_sub(of_files("inactive_file").saturating_add(of_files("active_file")));
    available.min(limit.saturating_sub(used))
}

/// Bytes that are assumed to be free if the system does not say. The number is low because it is better to recompute layers than to
/// run out of memory.
const FALLBACK: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_are_free() {
        let meminfo = "MemTotal:       16000000 kB\nMemAvailable:    8000 kB\n";
        assert_eq!(free_according_to(meminfo, "", "", ""), 8000 * 1024);
        assert_eq!(free_according_to(meminfo, "max\n", "5", ""), 8000 * 1024);
        assert_eq!(free_according_to(meminfo, "1000\n", "900\n", ""), 100);
        let stat = "anon 300\ninactive_file 400\nactive_file 200\n";
        assert_eq!(free_according_to(meminfo, "1000\n", "900\n", stat), 700);
        assert_eq!(free_according_to(meminfo, "1000", "2000", "inactive_file x"), 0);
        assert_eq!(free_according_to("", "", "", ""), FALLBACK);
    }
}
