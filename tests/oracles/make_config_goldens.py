#!/usr/bin/env python3
"""Make tests/goldens/configs/configs.json: what transformers makes of a config.json.

    python tests/oracles/make_config_goldens.py tests/goldens/configs/configs.json

Python 3.11, transformers==5.23.0, torch==2.15.0 (CPU). Models are built on the meta device, so no weights are made. For each
configuration: the facts that the decoder block runs on, names and shapes of the first layer's tensors and of those outside the
layers, and for each kind of layer and some sequence lengths the rotary frequencies, from the model's own rotary module.
"""
import copy, json, sys

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Gemma3ForConditionalGeneration

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=2048, intermediate_size=8192,
             num_hidden_layers=4, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, hidden_act="silu",
             max_position_embeddings=131072, rms_norm_eps=1e-5, bos_token_id=128000,
             eos_token_id=[128001, 128008, 128009], tie_word_embeddings=True, torch_dtype="bfloat16")
LLAMA3_ROPE = dict(factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192)
QWEN2 = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=896, intermediate_size=4864,
             num_hidden_layers=6, num_attention_heads=14, num_key_value_heads=2, vocab_size=151936, hidden_act="silu",
             max_position_embeddings=32768, rms_norm_eps=1e-6, bos_token_id=151643, eos_token_id=151645,
             tie_word_embeddings=True, torch_dtype="bfloat16", rope_theta=1000000.0, sliding_window=32768,
             use_sliding_window=False, max_window_layers=21)
QWEN3 = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=1024, intermediate_size=3072,
             num_hidden_layers=3, num_attention_heads=16, num_key_value_heads=8, head_dim=128, vocab_size=151936,
             hidden_act="silu", max_position_embeddings=40960, rms_norm_eps=1e-6, eos_token_id=151645,
             tie_word_embeddings=True, dtype="bfloat16",
             rope_parameters=dict(rope_theta=1000000.0, rope_type="default"))
MISTRAL = dict(architectures=["MistralForCausalLM"], model_type="mistral", hidden_size=4096, intermediate_size=14336,
               num_hidden_layers=3, num_attention_heads=32, num_key_value_heads=8, vocab_size=32000, hidden_act="silu",
               max_position_embeddings=32768, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, rope_theta=10000.0,
               sliding_window=4096, tie_word_embeddings=False, torch_dtype="bfloat16")
GEMMA2 = dict(architectures=["Gemma2ForCausalLM"], model_type="gemma2", hidden_size=2304, intermediate_size=9216,
              num_hidden_layers=5, num_attention_heads=8, num_key_value_heads=4, head_dim=256, vocab_size=256000,
              hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192,
              rms_norm_eps=1e-6, bos_token_id=2, eos_token_id=[1, 107], rope_theta=10000.0, sliding_window=4096,
              query_pre_attn_scalar=256, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
              torch_dtype="bfloat16")
GEMMA3 = dict(architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", hidden_size=1152, intermediate_size=6912,
              num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=1, head_dim=256, vocab_size=262144,
              hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768, rms_norm_eps=1e-6, bos_token_id=2,
              eos_token_id=[1, 106], query_pre_attn_scalar=256, sliding_window=512, rope_theta=1000000,
              rope_local_base_freq=10000, rope_scaling=None, sliding_window_pattern=6, torch_dtype="bfloat16",
              attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=False)
PHI3 = dict(architectures=["Phi3ForCausalLM"], model_type="phi3", hidden_size=3072, intermediate_size=8192,
            num_hidden_layers=2, num_attention_heads=32, num_key_value_heads=32, vocab_size=32064, hidden_act="silu",
            max_position_embeddings=4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5, bos_token_id=1,
            eos_token_id=32000, pad_token_id=32000, rope_theta=10000.0, rope_scaling=None, sliding_window=2047,
            tie_word_embeddings=False, attention_bias=False, torch_dtype="bfloat16")


def factors(n, top):
    return [round(1.0 + (top - 1.0) * (i / (n - 1)) ** 2, 3) for i in range(n)]


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


CASES = [
    # name, config, lengths
    ("llama-3.2-1b, older form", {**LLAMA, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3_ROPE, "rope_type": "llama3"}}, [8]),
    ("llama-3.2-1b, newer form",
     {**without(LLAMA, "torch_dtype"), "dtype": "bfloat16", "rope_parameters": {**LLAMA3_ROPE, "rope_type": "llama3", "rope_theta": 500000.0}}, [8]),
    ("llama-2, few keys", without({**LLAMA, "num_attention_heads": 16, "eos_token_id": 2, "tie_word_embeddings": False},
                                  "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"), [8]),
    ("llama, biases and head_dim", {**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 80}, [8]),
    ("llama, linear under its old name", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.5}}, [8]),
    ("llama, dynamic", {**LLAMA, "max_position_embeddings": 2048, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
     [8, 2048, 2049, 5000, 16384]),
    ("llama, dynamic, odd numbers", {**LLAMA, "max_position_embeddings": 1536, "rope_theta": 123456.7, "head_dim": 36,
                                     "rope_scaling": {"rope_type": "dynamic", "factor": 3}}, [100, 1537, 4001]),
    ("llama3 with the length beside it",
     {**LLAMA, "original_max_position_embeddings": 1024, "rope_theta": 20000.0,
      "rope_scaling": {"factor": 4.0, "high_freq_factor": 3.0, "low_freq_factor": 1.5, "rope_type": "llama3"}}, [8]),
    ("llama, yarn", {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}}, [8, 9000]),
    ("llama, yarn, no truncation", {**LLAMA, "rope_theta": 150000.0, "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 24.0, "beta_slow": 2, "truncate": False,
        "original_max_position_embeddings": 4096}}, [8]),
    ("llama, yarn, mscale", {**LLAMA, "rope_scaling": {
        "rope_type": "yarn", "factor": 40, "mscale": 0.707, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}}, [8]),
    ("llama, yarn, attention_factor, factor null", {**LLAMA, "rope_scaling": {
        "rope_type": "yarn", "factor": None, "attention_factor": 1.25, "original_max_position_embeddings": 8192}}, [8]),
    ("llama, yarn, ramp of width 0", {**LLAMA, "max_position_embeddings": 4096, "rope_theta": 1000000.0, "head_dim": 4, "rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "beta_fast": 1e6, "beta_slow": 1e5, "original_max_position_embeddings": 64}}, [8]),
    ("llama, longrope", {**LLAMA, "rope_scaling": {
        "rope_type": "longrope", "short_factor": factors(32, 1.4), "long_factor": factors(32, 30.0), "factor": 16.0,
        "original_max_position_embeddings": 8192}}, [8, 8192, 8193]),
    ("mistral-7b-v0.1", MISTRAL, [8]),
    ("mistral-7b, no window", {**MISTRAL, "sliding_window": None, "rope_theta": 1000000.0}, [8]),
    ("mistral, window not said", without(MISTRAL, "sliding_window", "num_key_value_heads"), [8]),
    ("mistral-nemo", {**MISTRAL, "hidden_size": 5120, "head_dim": 128, "sliding_window": None, "vocab_size": 131072}, [8]),
    ("qwen2.5-0.5b", QWEN2, [8]),
    ("qwen2, upper windows", {**QWEN2, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 4}, [8]),
    ("qwen2, all windows", {**QWEN2, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 0}, [8]),
    ("qwen2, layer types", {**QWEN2, "use_sliding_window": True, "sliding_window": 1024, "layer_types":
                            ["full_attention", "sliding_attention"] * 3}, [8]),
    ("qwen3-0.6b", QWEN3, [8]),
    ("qwen3, biases, untied, older form", {**without(QWEN3, "rope_parameters", "head_dim"), "attention_bias": True,
                                           "tie_word_embeddings": False, "rope_theta": 1000000}, [8]),
    ("gemma-2-2b", GEMMA2, [8]),
    ("gemma-2-27b's scale", {**GEMMA2, "query_pre_attn_scalar": 144, "hidden_size": 4608, "num_attention_heads": 32,
                             "num_key_value_heads": 16, "head_dim": 128}, [8]),
    ("gemma2, few keys", without({**GEMMA2, "attn_logit_softcapping": None}, "head_dim", "num_attention_heads",
                                 "num_key_value_heads", "final_logit_softcapping", "hidden_activation",
                                 "sliding_window", "query_pre_attn_scalar"), [8]),
    ("gemma-3-1b, older form", GEMMA3, [8]),
    ("gemma-3-1b, newer form", {**without(GEMMA3, "rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern"),
                                "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
                                "num_hidden_layers": 12, "rope_parameters": {
                                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}}, [8]),
    ("gemma-3-4b, text nested", {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16", "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 7,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
        "vision_config": {"hidden_size": 64, "image_size": 28, "intermediate_size": 64, "model_type": "siglip_vision_model",
                          "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14,
                          "vision_use_head": False}}, [8]),
    ("phi-3-mini-4k", PHI3, [8]),
    ("phi-3-mini-128k, su", {**PHI3, "max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": {
        "type": "su", "original_max_position_embeddings": 4096, "short_factor": factors(48, 2.5), "long_factor": factors(48, 60.0)}}, [8, 4096, 4097]),
    ("phi-4-mini", {**PHI3, "num_attention_heads": 24, "num_key_value_heads": 8, "partial_rotary_factor": 0.75,
                    "max_position_embeddings": 131072, "sliding_window": 262144, "tie_word_embeddings": True,
                    "vocab_size": 200064, "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48,
                                                           "long_factor": factors(48, 47.77)}}, [8, 5000]),
    ("phi3, newer form", {**without(PHI3, "rope_theta", "rope_scaling", "torch_dtype"), "max_position_embeddings": 131072,
                          "dtype": "bfloat16", "rope_parameters": {
                              "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                              "short_factor": factors(24, 1.1), "long_factor": factors(24, 12.0),
                              "original_max_position_embeddings": 4096}}, [8, 4097]),
]


def rotary(text_model, config, layer_type, length):
    """Frequencies and scaling that a fresh rotary module has after a forward over `length` positions."""
    module = type(text_model.rotary_emb)(config)
    x, positions = torch.zeros(1, 1, 1), torch.tensor([[length - 1]])
    if layer_type is None:
        module(x, positions)
        return module.inv_freq, module.attention_scaling
    module(x, positions, layer_type)
    return getattr(module, f"{layer_type}_inv_freq"), getattr(module, f"{layer_type}_attention_scaling")


def golden(name, raw, lengths):
    config = CONFIG_MAPPING[raw["model_type"]].from_dict(copy.deepcopy(raw))
    nested = raw["model_type"] == "gemma3"
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config) if nested else AutoModelForCausalLM.from_config(config)
    text = config.text_config if nested else config
    text_model = model.model.language_model if nested else model.model
    layers = []
    for layer in text_model.layers:
        attention = layer.self_attn
        window = getattr(attention, "sliding_window", None) if hasattr(attention, "layer_type") else getattr(text, "sliding_window", None)
        layers.append(window)
    attention = text_model.layers[0].self_attn
    embed_scale = getattr(text_model.embed_tokens, "scalar_embed_scale", 1.0)
    kinds = sorted(set(text.layer_types)) if raw["model_type"].startswith("gemma3") else [None]
    ropes = []
    for kind in kinds:
        for length in lengths:
            inv_freq, scaling = rotary(text_model, text, kind, length)
            inv_freq = inv_freq.to(torch.float32)
            ropes.append({"layer_type": kind, "sequence_len": length, "scaling": float(scaling),
                          "inv_freq": [float(x) for x in inv_freq]})
    outside_vision = {n: p for n, p in model.named_parameters() if not n.startswith(("model.vision", "model.multi_modal"))}
    shown = {n: list(p.shape) for n, p in outside_vision.items() if ".layers." not in n or ".layers.0." in n}
    return {
        "name": name, "config": raw,
        "facts": {
            "num_attention_heads": text.num_attention_heads, "num_key_value_heads": text.num_key_value_heads,
            "head_dim": attention.head_dim, "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings, "rms_norm_eps": text.rms_norm_eps,
            "tie_word_embeddings": config.tie_word_embeddings, "sliding_windows": layers,
            "attention_scale": attention.scaling, "embedding_scale": float(embed_scale),
            "attn_logit_softcapping": getattr(text, "attn_logit_softcapping", None),
            "final_logit_softcapping": getattr(text, "final_logit_softcapping", None),
            "activation": getattr(text, "hidden_activation", None) or text.hidden_act,
        },
        "parameters": sum(p.numel() for p in outside_vision.values()),
        "tensors": shown,
        "ropes": ropes,
    }


goldens = [golden(*case) for case in CASES]
with open(sys.argv[1], "w") as out:
    out.write("[\n" + ",\n".join(json.dumps(g) for g in goldens) + "\n]\n")
print(len(goldens), "configurations")
