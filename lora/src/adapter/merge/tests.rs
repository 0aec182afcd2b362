//! Compares merged weights with sums in f64. Checks that nothing else changes, and that a failed merge leaves nothing behind.

use crate::adapter::tests::fixtures::*;
use crate::adapter::*;
use align_engine::weights::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use tempfile::TempDir;

fn merge(model: &Path, adapter: &Path, output: &Path) -> Result<MergeReport, MergeError> {
    Merge { model, adapter, output, existing: Existing::Keep, chat_template: None }.run(&device(), &mut |_, _| {})
}

/// Merges and replaces an existing output.
fn replace(model: &Path, adapter: &Path, output: &Path) -> Result<MergeReport, MergeError> {
    Merge { model, adapter, output, existing: Existing::Replace, chat_template: None }.run(&device(), &mut |_, _| {})
}

fn widen(tensor: &RawTensor) -> Vec<f64> {
    let halves = || tensor.bytes.as_chunks::<2>().0.iter();
    match tensor.dtype {
        Dtype::F32 => tensor.bytes.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Dtype::F16 => halves().map(|&b| half::f16::from_le_bytes(b).to_f64()).collect(),
        Dtype::BF16 => halves().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        other => panic!("{other}"),
    }
}

/// Half a unit in the last place of a normal number in this format, relative to the number.
fn rounding(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 2f64.powi(-24),
        Dtype::F16 => 2f64.powi(-11),
        Dtype::BF16 => 2f64.powi(-8),
        other => panic!("{other}"),
    }
}

/// Half the spacing of f16's subnormal numbers, whose rounding error is not relative. Subnormal numbers of f32 and bf16 are too
/// small to matter.
const SUBNORMAL: f64 = 1.0 / (1u64 << 25) as f64;

/// Returns all tensors of a model, by name.
fn tensors_of(dir: &Path) -> BTreeMap<String, RawTensor> {
    let mut all = BTreeMap::new();
    for name in files(dir).keys().filter(|name| name.extension().is_some_and(|ending| ending == "safetensors")) {
        all.extend(read_tensors(&dir.join(name)).0.into_iter().map(|tensor| (tensor.name.clone(), tensor)));
    }
    all
}

/// Returns the name of a module's weight. In the golden models, the tensors and the adapters use the same module names.
fn tensor_name(module: &str) -> String {
    format!("{module}.weight")
}

/// Computes `W + scaling B A` in f64 for every adapted tensor. Beside each element is the largest error that f32 arithmetic can
/// make in it.
fn exactly_merged(model: &Path, adapter: &Path) -> HashMap<String, Vec<(f64, f64)>> {
    let base = tensors_of(model);
    let model = load_model(model);
    let adapter = Adapter::load(&model, adapter).unwrap();
    let mut merged = HashMap::new();
    for (id, update) in adapter.set().iter() {
        let name = tensor_name(&model.linears()[id.0].name);
        let [rank, in_features] = update.lora_a.shape();
        let (a, b) = (update.lora_a.read().download().unwrap(), update.lora_b.read().download().unwrap());
        let scaling = f64::from(update.scaling);
        let sums = widen(&base[&name]).into_iter().enumerate().map(|(at, weight)| {
            let (row, col) = (at / in_features, at % in_features);
            let products = (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * in_features + col]));
            let (mut sum, mut size) = (0.0, 0.0);
            for product in products {
                sum += scaling * product;
                size += (scaling * product).abs();
            }
            // `rank` products and sums, the scaling and the addition to W each round by at most 2^-24 of the result
            let error = ((2 * rank + 2) as f64 * size + 2.0 * weight.abs()) * 2f64.powi(-24);
            (weight + sum, error)
        });
        merged.insert(name, sums.collect());
    }
    merged
}

/// Checks a merged directory against the sums in f64 and against the base. Returns the number of elements that changed.
fn check_merged(model: &Path, adapter: &Path, output: &Path) -> u64 {
    let exact = exactly_merged(model, adapter);
    let mut changed = 0;
    let (before, after) = (files(model), files(output));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for name in before.keys() {
        if name.extension().is_none_or(|ending| ending != "safetensors") {
            assert!(before[name] == after[name], "{} was not copied", name.display());
            continue;
        }
        let (before, metadata) = read_tensors(&model.join(name));
        let (after, written_metadata) = read_tensors(&output.join(name));
        assert_eq!(metadata, written_metadata);
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((&before.name, before.dtype, &before.shape), (&after.name, after.dtype, &after.shape));
            let Some(exact) = exact.get(&before.name) else {
                assert!(before.bytes == after.bytes, "{} has no update", before.name);
                continue;
            };
            let (old, new) = (widen(before), widen(after));
            for (at, (&value, &(exact, error))) in new.iter().zip(exact).enumerate() {
                // rounded once, from a sum that is off by at most `error`
                let bound = rounding(before.dtype) * (exact.abs() + error) + error + SUBNORMAL;
                assert!((value - exact).abs() <= bound, "{}[{at}]: {value} is not {exact}", before.name);
            }
            let here = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            // the tests' adapters are large enough to survive rounding: they change 34 % and more of each matrix
            assert!(4 * here > old.len(), "{}: {here} of {} numbers have changed", before.name, old.len());
            changed += here as u64;
        }
    }
    changed
}

#[test]
fn every_golden_adapter_merges_into_what_f64_gives() {
    for (model, adapter) in golden_adapters() {
        let parent = TempDir::new().unwrap();
        let output = parent.path().join("merged");
        let mut told = Vec::new();
        let task =
            Merge { model: &model, adapter: &adapter, output: &output, existing: Existing::Keep, chat_template: None };
        let report = task.run(&device(), &mut |done, total| told.push((done, total))).unwrap();
        let changed = check_merged(&model, &adapter, &output);
        assert_eq!(report.changed, changed, "{}", adapter.display());
        let exact = exactly_merged(&model, &adapter);
        assert_eq!(report.merged, exact.len());
        assert_eq!(report.elements, exact.values().map(|values| values.len() as u64).sum::<u64>());
        let bytes: u64 = tensors_of(&model).values().map(|tensor| tensor.bytes.len() as u64).sum();
        assert_eq!(report.bytes, bytes);
        assert_eq!(told.last(), Some(&(bytes, bytes)));
        assert!(told.is_sorted());
        assert!(report.max_delta > 0.0 && report.left_out.is_empty());
        // nothing is left beside the output
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}

/// Copies a model into a new folder, with its tensors in `shards` files, each of which has every `shards`-th tensor. `convert`
/// may change the tensors.
fn reshard(model: &Path, shards: usize, convert: impl Fn(RawTensor) -> RawTensor) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files(model) {
        if name.extension().is_some_and(|ending| ending != "safetensors")
            && !name.ends_with("model.safetensors.index.json")
        {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
    }
    let tensors: Vec<RawTensor> = tensors_of(model).into_values().map(convert).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    if shards == 1 {
        write_tensors(&dir.path().join("model.safetensors"), &tensors, &metadata);
        return dir;
    }
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let held: Vec<RawTensor> = tensors.iter().skip(shard).step_by(shards).cloned().collect();
        weight_map.extend(held.iter().map(|tensor| (tensor.name.clone(), Value::from(file.as_str()))));
        write_tensors(&dir.path().join(file), &held, &metadata);
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    dir
}

#[test]
fn three_shards_and_one_file_merge_into_the_same_tensors() {
    for name in ["tiny-llama", "tiny-phi3"] {
        let adapter = goldens().join(name).join("adapter");
        let parent = TempDir::new().unwrap();
        let merged = |shards: usize| {
            let model = reshard(&tiny_model(name), shards, |tensor| tensor);
            let output = parent.path().join(format!("{name}-{shards}"));
            merge(model.path(), &adapter, &output).unwrap();
            check_merged(model.path(), &adapter, &output);
            (tensors_of(&output), files(&output).len())
        };
        let (one, three) = (merged(1), merged(3));
        assert!(one.0 == three.0);
        assert_eq!(one.1 + 3, three.1, "three files and an index in place of one");
    }
}

#[test]
fn the_number_format_of_the_base_stays() {
    let adapter = goldens().join("tiny-qwen3/adapter");
    let f32_bytes = |tensor: &RawTensor| widen(tensor).into_iter().flat_map(|v| (v as f32).to_le_bytes()).collect();
    let f16_bytes =
        |tensor: &RawTensor| widen(tensor).into_iter().flat_map(|v| half::f16::from_f64(v).to_le_bytes()).collect();
    for dtype in [Dtype::F32, Dtype::F16] {
        let model = reshard(&tiny_model("tiny-qwen3"), 1, |tensor| {
            let bytes = if dtype == Dtype::F32 { f32_bytes(&tensor) } else { f16_bytes(&tensor) };
            RawTensor { dtype, bytes, ..tensor }
        });
        let parent = TempDir::new().unwrap();
        let output = parent.path().join("merged");
        let report = merge(model.path(), &adapter, &output).unwrap();
        assert_eq!(report.changed, check_merged(model.path(), &adapter, &output));
        assert!(tensors_of(&output).values().all(|tensor| tensor.dtype == dtype));
    }
}

#[test]
fn the_hugging_face_cache_is_read_through_its_links() {
    let cache = TempDir::new().unwrap();
    let blobs = cache.path().join("models--a--b/blobs");
    let snapshot = cache.path().join("models--a--b/snapshots/0123abcd");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for (at, (name, content)) in files(&tiny_model("tiny-llama")).into_iter().enumerate() {
        std::fs::write(blobs.join(at.to_string()), content).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{at}"), snapshot.join(name)).unwrap();
    }
    let output = cache.path().join("merged");
    merge(&snapshot, &goldens().join("tiny-llama/adapter"), &output).unwrap();
    check_merged(&tiny_model("tiny-llama"), &goldens().join("tiny-llama/adapter"), &output);
    for entry in std::fs::read_dir(&output).unwrap() {
        assert!(entry.unwrap().file_type().unwrap().is_file(), "the output must not lean on the cache");
    }
}

#[test]
fn other_files_are_copied_and_other_weights_left_out() {
    let model = reshard(&tiny_model("tiny-llama"), 1, |tensor| tensor);
    let write = |path: &str, content: &str| {
        let path = model.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let copied = [
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
        "README.md",
        "original/params.json",
        "vocab.bin",
    ];
    let left_out = [
        "consolidated.safetensors",
        "pytorch_model.bin",
        "original/consolidated.00.pth",
        "model.safetensors.index.json",
    ];
    copied.iter().chain(&left_out).for_each(|path| write(path, path));
    write(".cache/huggingface/download/model.safetensors.metadata", "etag");
    std::os::unix::fs::symlink(".", model.path().join("loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", model.path().join("dangling")).unwrap();
    let parent = TempDir::new().unwrap();
    let output = parent.path().join("a/new/folder");
    let report = merge(model.path(), &goldens().join("tiny-llama/adapter"), &output).unwrap();
    let expected: BTreeSet<PathBuf> =
        left_out.iter().chain(&[".cache", "loop", "dangling"]).map(PathBuf::from).collect();
    assert_eq!(report.left_out.into_iter().collect::<BTreeSet<_>>(), expected);
    for path in copied {
        assert_eq!(std::fs::read_to_string(output.join(path)).unwrap(), path);
    }
    let model_files = files(&tiny_model("tiny-llama")).len() - 3; // two shards and their index
    assert_eq!(report.copied, copied.len() + model_files);
    assert_eq!(files(&output).len(), report.copied + 1);
}

#[test]
fn an_output_that_is_there_is_kept_or_replaced_as_asked() {
    let (model, adapter) = (tiny_model("tiny-llama"), goldens().join("tiny-llama/adapter"));
    let parent = TempDir::new().unwrap();
    let output = parent.path().join("merged");
    std::fs::create_dir(&output).unwrap();
    // an empty folder is not refused
    merge(&model, &adapter, &output).unwrap();
    std::fs::write(output.join("notes.txt"), "mine").unwrap();
    let before = files(&output);
    let error = merge(&model, &adapter, &output).unwrap_err();
    assert!(matches!(&error, MergeError::NotEmpty { output: named } if *named == output), "{error}");
    assert!(files(&output) == before);
    replace(&model, &adapter, &output).unwrap();
    check_merged(&model, &adapter, &output);
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "the old folder is gone");
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(merge(&model, &adapter, &file), Err(MergeError::NotAFolder { .. })));
}

#[test]
fn an_output_that_would_swallow_its_inputs_is_refused() {
    let home = TempDir::new().unwrap();
    let (model, adapter) = (home.path().join("model"), home.path().join("model-lora"));
    std::fs::create_dir(&model).unwrap();
    for (name, content) in files(&tiny_model("tiny-llama")) {
        std::fs::write(model.join(name), content).unwrap();
    }
    std::fs::rename(Spoilt::copy_of(&goldens().join("tiny-llama/adapter")).write().keep(), &adapter).unwrap();
    let before = files(home.path());
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    for output in
        [model.clone(), model.join("merged"), adapter.clone(), home.path().to_owned(), link.clone(), link.join("x")]
    {
        let error = replace(&model, &adapter, &output).unwrap_err();
        assert!(matches!(&error, MergeError::Overlap { .. }), "{}: {error}", output.display());
    }
    std::fs::remove_file(link).unwrap();
    assert!(files(home.path()) == before);
    // an output inside the adapter's folder is allowed, since users often put it there
    merge(&model, &adapter, &adapter.join("merged")).unwrap();
}

#[test]
fn what_cannot_be_merged_leaves_nothing_behind() {
    let sound = goldens().join("tiny-llama/adapter");
    let k_proj = "model.layers.1.self_attn.k_proj";
    let broken = |spoil: &dyn Fn(RawTensor) -> RawTensor| reshard(&tiny_model("tiny-llama"), 1, spoil);
    let nan = broken(&|mut tensor| {
        if tensor.name == tensor_name(k_proj) {
            tensor.bytes[14..16].copy_from_slice(&half::bf16::NAN.to_le_bytes());
        }
        tensor
    });
    let huge = broken(&|mut tensor| {
        // the base's number is finite in f16, but its sum with the update is not
        let f16 = |value: f64| half::f16::from_f64(value).to_le_bytes();
        tensor.bytes = widen(&tensor).into_iter().flat_map(f16).collect();
        tensor.dtype = Dtype::F16;
        if tensor.name == tensor_name(k_proj) {
            tensor.bytes.chunks_exact_mut(2).for_each(|bytes| bytes.copy_from_slice(&half::f16::MAX.to_le_bytes()));
        }
        tensor
    });
    let quantised = broken(&|mut tensor| {
        if tensor.name == tensor_name(k_proj) {
            tensor.dtype = Dtype::I16;
        }
        tensor
    });
    let mut strong = Spoilt::copy_of(&sound);
    strong.config["lora_alpha"] = Value::from(1e6);
    let strong = strong.write();
    let mut foreign = Spoilt::copy_of(&sound);
    foreign.tensors.iter_mut().for_each(|tensor| tensor.name = tensor.name.replace("layers.2.", "layers.9."));
    let foreign = foreign.write();
    type Expected = fn(&MergeError) -> bool;
    let table: [(&str, &Path, &Path, Expected, &str); 5] = [
        ("NaN", nan.path(), &sound, |e| matches!(e, MergeError::NonFinite { element: 7, .. }), k_proj),
        ("overflow", huge.path(), strong.path(), |e| matches!(e, MergeError::NonFinite { .. }), k_proj),
        ("integers", quantised.path(), &sound, |e| matches!(e, MergeError::Load(_)), k_proj),
        (
            "another model's adapter",
            &tiny_model("tiny-llama"),
            foreign.path(),
            |e| matches!(e, MergeError::Adapter(AdapterError::Unmatched { .. })),
            "layers.9.",
        ),
        ("no model", &sound, &sound, |e| matches!(e, MergeError::Config(_)), "config.json"),
    ];
    for (what, model, adapter, expected, says) in table {
        let parent = TempDir::new().unwrap();
        let output = parent.path().join("merged");
        let error = merge(model, adapter, &output).expect_err(what);
        assert!(expected(&error), "{what}: {error:?}");
        assert!(error.to_string().contains(says), "{what}: {error}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0, "{what}");
    }
}

/// The environment variable that the test below sets for its child process, to the folder of the outputs.
const SMALL_DISK: &str = "ALIGN_TEST_SMALL_DISK";

/// A limit on the size of files looks like a full disk to the writer. The shell sets it for a child, which writes adapters and
/// merges. Earlier files must stay.
#[test]
fn a_full_disk_leaves_the_old_files() {
    let (model, adapter) = (tiny_model("tiny-llama"), goldens().join("tiny-llama/adapter"));
    if let Some(home) = std::env::var_os(SMALL_DISK) {
        let home = PathBuf::from(home);
        let other = goldens().join("tiny-llama31/adapter");
        let written = Adapter::load(&load_model(&tiny_model("tiny-llama31")), &other).unwrap();
        let error = written.save(&home.join("adapter")).unwrap_err();
        assert!(matches!(error, AdapterError::Write(_)), "{error}");
        let output = home.join("merged");
        let error = replace(&model, &adapter, &output).unwrap_err();
        assert!(matches!(error, MergeError::Write { .. }), "{error}");
        return;
    }
    let home = TempDir::new().unwrap();
    merge(&model, &adapter, &home.path().join("merged")).unwrap();
    Adapter::load(&load_model(&model), &adapter).unwrap().save(&home.path().join("adapter")).unwrap();
    let before = files(home.path());
    let smallest_write = before.values().map(Vec::len).max().unwrap();
    assert!(smallest_write > 100 << 10, "the limit below must be met");
    let name = "adapter::merge::tests::a_full_disk_leaves_the_old_files";
    // 64 KiB, in blocks of 512 bytes. Without the trap, the signal would end the child before it sees the error
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(SMALL_DISK, home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert!(files(home.path()) == before, "{:?}", files(home.path()).keys());
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2, "nothing is left beside them");
}
