//! Writes a model of random weights with the size of Llama 2 7B, so that runs of that size can be measured without a download.

use align_engine::weights::{Dtype, SafetensorsWriter, TensorSpec};
use align_kernels::rng::Key;
use half::bf16;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 11008;
const LAYERS: usize = 32;
const VOCAB: usize = 32000;
/// Standard deviation of the weights, that of a freshly initialised model. Weights of norms are 1.
const SPREAD: f32 = 0.02;
/// A shard is closed once it has this many bytes.
const SHARD: usize = 4 << 30;
/// Number of values that a thread makes at a time. They fill 8 MiB.
const PIECE: usize = 4 << 20;

type Error = Box<dyn std::error::Error>;

/// Writes the model into `dir`, with the demo's tokenizer, whose ids are all below [`VOCAB`].
pub(crate) fn write(dir: &Path, threads: usize) -> Result<(), Error> {
    std::fs::create_dir_all(dir)?;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("cli/demo/model");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(demo.join(file), dir.join(file))?;
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": VOCAB, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "bos_token_id": null, "eos_token_id": 0,
    });
    std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(&config)?)?;

    let started = Instant::now();
    let normal = table();
    let mut weight_map = serde_json::Map::new();
    let shards = shards();
    let mut place = 0;
    let mut bytes = 0;
    for (number, tensors) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        let mut file = SafetensorsWriter::create(&dir.join(&name), &BTreeMap::new(), tensors)?;
        for tensor in tensors {
            let values: usize = tensor.shape.iter().product();
            for first in (0..values).step_by(PIECE * threads) {
                let pieces: Vec<usize> = (first..values.min(first + PIECE * threads)).step_by(PIECE).collect();
                let made: Vec<Vec<bf16>> = std::thread::scope(|scope| {
                    let make = |&at: &usize| {
                        let (normal, len) = (&normal, PIECE.min(values - at));
                        let seed = (place + at) as u64;
                        let is_norm = tensor.shape.len() == 1;
                        scope.spawn(move || if is_norm { vec![bf16::ONE; len] } else { random(normal, seed, len) })
                    };
                    let threads: Vec<_> = pieces.iter().map(make).collect();
                    threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
                });
                for piece in made {
                    file.write(&tensor.name, bytemuck::cast_slice(&piece))?;
                }
            }
            place += values;
            bytes += 2 * values;
            weight_map.insert(tensor.name.clone(), name.clone().into());
        }
        file.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {:.1} GB so far, {:.0} MB/s", bytes as f64 / 1e9, bytes as f64 / 1e6 / seconds);
    }
    let index = json!({ "metadata": { "total_size": bytes }, "weight_map": weight_map });
    std::fs::write(dir.join("model.safetensors.index.json"), serde_json::to_string_pretty(&index)?)?;
    Ok(())
}

/// Returns the tensors of each shard, in the order in which the model uses them.
fn shards() -> Vec<Vec<TensorSpec>> {
    let mut all = vec![("model.embed_tokens".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let square = vec![HIDDEN, HIDDEN];
        let parts = [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", square.clone()),
            ("self_attn.k_proj", square.clone()),
            ("self_attn.v_proj", square.clone()),
            ("self_attn.o_proj", square),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ];
        all.extend(parts.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
    }
    all.extend([("model.norm".to_owned(), vec![HIDDEN]), ("lm_head".to_owned(), vec![VOCAB, HIDDEN])]);

    let (mut shards, mut bytes) = (vec![Vec::new()], 0);
    for (name, shape) in all {
        if bytes >= SHARD {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += 2 * shape.iter().product::<usize>();
        let spec = TensorSpec { name: format!("{name}.weight"), dtype: Dtype::BF16, shape };
        shards.last_mut().expect("there is one").push(spec);
    }
    shards
}

/// Makes a table of draws from a normal distribution, one for each possible value of 16 random bits. To draw a new number for
/// each weight would take minutes.
fn table() -> Vec<bf16> {
    let key = Key::new(7, 0, 0);
    let draw = |i: u64| {
        let radius = (-2.0 * (1.0 - key.unit(2 * i)).ln()).sqrt();
        bf16::from_f32(SPREAD * radius * (std::f32::consts::TAU * key.unit(2 * i + 1)).cos())
    };
    (0..1 << 16).map(draw).collect()
}

/// Makes `len` values from `seed`. Each number of splitmix64 picks four entries of the table `normal`.
fn random(normal: &[bf16], seed: u64, len: usize) -> Vec<bf16> {
    let mut values = Vec::with_capacity(len.next_multiple_of(4));
    for i in 0..len.div_ceil(4) as u64 {
        let mut z = (seed.wrapping_mul(4) + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        values.extend([0, 16, 32, 48].map(|shift| normal[(z >> shift & 0xffff) as usize]));
    }
    values.truncate(len);
    values
}
