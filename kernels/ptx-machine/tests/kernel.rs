//! Builds kernels from a few lines of PTX, and runs them.

use ptx_machine::{Arrival, Check, Launch, LaunchError, Memory, Module, Outcome, Report, Schedule, Settings};

/// Returns a kernel whose parameters are addresses. They are in `%rd0`, `%rd1` and so on, the thread's place in its block is in
/// `%r0`, and the block's place in the grid in `%r1`. The other registers are `%r2` to `%r31`, `%rd4` to `%rd31`, `%f0` to
/// `%f15`, `%h0` to `%h7`, and `%p0` to `%p7`.
pub(crate) fn kernel(addresses: usize, declarations: &str, body: &str) -> String {
    let parameters: Vec<String> = (0..addresses).map(|i| format!(".param .u64 a{i}")).collect();
    let loads: String = (0..addresses).map(|i| format!(" ld.param.u64 %rd{i}, [a{i}];\n")).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\n \
         .reg .pred %p<8>; .reg .f32 %f<16>; .reg .b32 %r<32>; .reg .b64 %rd<32>; .reg .b16 %h<8>;\n{declarations}\n{loads} \
         mov.u32 %r0, %tid.x;\n mov.u32 %r1, %ctaid.x;\n{body}\n ret;\n}}\n",
        parameters.join(", ")
    )
}

/// Returns PTX that puts the address of the 4-byte element `index` of `base` into `into`.
pub(crate) fn at(into: &str, base: &str, index: &str) -> String {
    format!("mul.wide.u32 {into}, {index}, 4; add.s64 {into}, {into}, {base};")
}

/// A device and how launches run on it.
pub(crate) struct Card {
    pub memory: Memory,
    pub settings: Settings,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Card {
    /// Makes a device of 1 GiB, with every checker on.
    pub(crate) fn new() -> Card {
        Card { memory: Memory::new(1 << 30), settings: Settings::checked(), shared: 0 }
    }

    pub(crate) fn upload(&self, words: &[u32]) -> u64 {
        let address = self.memory.allocate(words.len() as u64 * 4).unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    pub(crate) fn words(&self, address: u64, n: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * n];
        self.memory.read(address, &mut bytes).unwrap();
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    pub(crate) fn launch(
        &self,
        text: &str,
        blocks: u32,
        threads: u32,
        addresses: &[u64],
    ) -> Result<Outcome, LaunchError> {
        let module = Module::load(text, &self.memory).unwrap_or_else(|error| panic!("{error}"));
        let parameters: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        let (grid, block) = ([blocks, 1, 1], [threads, 1, 1]);
        let launch = Launch { grid, block, dynamic_shared: self.shared, parameters: &parameters };
        module.kernels()[0].launch(&self.memory, &launch, &self.settings)
    }

    /// Runs a kernel whose one parameter is the address of `n` words, and returns the words. Panics if a checker finds anything.
    pub(crate) fn results(&self, text: &str, blocks: u32, threads: u32, n: usize) -> Vec<u32> {
        let to = self.memory.allocate(4 * n as u64).unwrap();
        let outcome = self.launch(text, blocks, threads, &[to]).unwrap();
        assert_eq!(outcome.reports, []);
        self.words(to, n)
    }
}

/// Returns four schedules, each with early and with late arrival of copies.
pub(crate) fn ways() -> Vec<(Schedule, Arrival)> {
    let schedules = [Schedule::Forward, Schedule::Reverse, Schedule::Seeded(1), Schedule::Seeded(2)];
    schedules
        .into_iter()
        .flat_map(|schedule| [Arrival::Early, Arrival::Late].map(|arrival| (schedule, arrival)))
        .collect()
}

/// Runs a kernel on 1024 words in all of the [`ways`], and returns the checks that find something. Panics if these differ between
/// the ways.
pub(crate) fn found(text: &str, blocks: u32, threads: u32) -> Vec<Check> {
    let all: Vec<Vec<Report>> = ways()
        .into_iter()
        .map(|(schedule, arrival)| {
            let mut card = Card::new();
            (card.settings.schedule, card.settings.arrival) = (schedule, arrival);
            let to = card.upload(&[0; 1024]);
            card.launch(text, blocks, threads, &[to]).unwrap().reports
        })
        .collect();
    let checks = |reports: &[Report]| {
        let mut checks: Vec<Check> = reports.iter().map(|report| report.check).collect();
        checks.sort();
        checks.dedup();
        checks
    };
    let first = checks(&all[0]);
    for reports in &all {
        assert_eq!(checks(reports), first, "{reports:#?}");
    }
    first
}
