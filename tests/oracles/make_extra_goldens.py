#!/usr/bin/env python3
"""Goldens for what the end-to-end goldens lack: rope variants per sequence, adapter options, system prompts.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python tests/oracles/make_extra_goldens.py [--goldens tests/goldens] [--only CASE,...]

Writes `GOLDENS/extra/<case>/`, from the tiny models and `pairs.jsonl` that lie in GOLDENS. About two minutes. Token ids come
from TRL's DPOTrainer, adapter files from PEFT, log-probs from transformers in float32 with eager attention, where **each
sequence runs alone**, unpadded, through a rotary embedding made for it: the angles of dynamic rope and longrope depend on the
length of the sequence, and transformers keeps the largest dynamic base it has met until a sequence shorter than
`max_position_embeddings` comes by, so that the numbers of a run of several sequences depend on their order.
`tests/goldens/extra/README.md` says what the files hold.
"""
import argparse
import copy
import json
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--goldens", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "goldens")
parser.add_argument("--only", help="comma-separated names of cases; default: all")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

if os.environ.get("PYTHONHASHSEED") != "0":
    # PEFT writes target_modules in the order of a Python set of strings: fixed, so that the files can be made again
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
os.environ.update(OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1",
                  HF_DATASETS_CACHE=tempfile.mkdtemp(), HF_DATASETS_DISABLE_PROGRESS_BARS="1")
warnings.filterwarnings("ignore")

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from alone import new_rotary_embeddings, policy_and_reference, token_logps  # noqa: E402
from datasets import Dataset  # noqa: E402

transformers.logging.set_verbosity_error()
torch.set_num_threads(args.threads)
torch.use_deterministic_algorithms(True)

MAX_LENGTH = 256
SEED = 20261
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VERSIONS = {module.__name__: module.__version__ for module in (torch, transformers, peft, trl)}
PAIRS = [json.loads(line) for line in (args.goldens / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------------------------------------------------------- rows


def turns(*contents):
    """Alternating user and assistant messages."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def system(text):
    return [{"role": "system", "content": text}]


def answer(text):
    return [{"role": "assistant", "content": text}]


def pair(name, prompt, chosen, rejected):
    """`chosen` and `rejected`: the text of one assistant message, or a list of messages."""
    as_messages = lambda a: answer(a) if isinstance(a, str) else a
    return {"id": name, "prompt": prompt, "chosen": as_messages(chosen), "rejected": as_messages(rejected)}


def first_pairs(n):
    return [{key: row[key] for key in ("id", "prompt", "chosen", "rejected")} for row in PAIRS[:n]]


LONG_ANSWER = ("I would like to know it too. The stones were slippery, the path to the harbour was wet, and in the winter of "
               "1987 it was raining every evening.")


def rows_around_length(tokenizer, length):
    """Rows on both sides of a sequence length: both answers within it, one beyond, exactly on it, and one token past it."""
    prompt = turns("Is it late?")
    count = lambda text: len(tokenizer.apply_chat_template(prompt + answer(text), return_dict=False))

    def text_of_total(total):
        text = "No"
        while count(text) < total:
            text += "." if count(text + " in") > total else " in"
        if count(text) != total:
            raise SystemExit(f"no text found that makes {total} tokens")
        return text

    rows = [
        pair("both-short", prompt, "Yes.", "No"),
        pair("one-long", prompt, "Yes.", LONG_ANSWER),
        pair("long-first", prompt, LONG_ANSWER, "No."),
        pair("on-the-edge", prompt, text_of_total(length), text_of_total(length + 1)),
    ]
    assert all(count(rows[0][side][0]["content"]) < length for side in ("chosen", "rejected")) and count(LONG_ANSWER) > length
    return rows


CONVERSATIONS = [
    pair("multi-turn", turns("Hello!", "Hi, how can I help you today?", "What is the price of an apple?"),
         "An apple costs 45 cents.", "I don't know."),
    pair("multi-turn-long-history", turns("How do I make tea?", "Boil the water.", "And then?", " Warm the pot. \n", "And\nthen?"),
         "Let it stand for four minutes.", "  Nothing.  "),
    pair("several-messages-in-the-answer", turns("Name a bird."),
         answer("A penguin.") + turns("Can it fly?", "No, it cannot."), "An ostrich."),
    pair("think-block-in-history", turns("Is 7 prime?", "<think>\n7 = 7 * 1\n</think>\n\nYes.", "Is 8?"),
         "<think>\n8 = 2 * 4\n</think>\n\nNo.", "Yes."),
    {"id": "implicit-prompt", "chosen": turns("Hello!", "Hi.", "Name a fruit.", "A pear."),
     "rejected": turns("Hello!", "Hi.", "Name a fruit.", "A list of apples, and why.")},
    pair("system", system("Answer in one word.") + turns("Name a fruit."), "Apple", "There are many: apples, pears, lemons."),
    pair("system-multi-turn", system(" You are the lighthouse keeper.\nBe brief. ") + turns("Who are you?", "The keeper.", "Since when?"),
         "1987.", "It was raining in the winter of 1987, and I walked to the harbour."),
    {"id": "system-implicit-prompt", "chosen": system("Be kind.") + turns("Is it late?", "It is; sleep well."),
     "rejected": system("Be kind.") + turns("Is it late?", "Yes.")},
    pair("system-empty", system("") + turns("Hello!"), "Hi, how can I help you today?", "What?"),
    pair("roles-do-not-alternate", turns("Hello!") + turns("Is anyone there?"), "Yes, hello.", "No."),
    pair("system-in-the-middle", turns("Hello!", "Hi.") + system("Answer with a number.") + turns("How many apples?"), "Six.", "Some."),
]


# ---------------------------------------------------------------------------------------------------------------- models


def model_dir(model):
    return args.goldens / model / "model"


def load_tokenizer(model):
    # tokenizer.json as it is: AutoTokenizer may rebuild parts of it
    return transformers.PreTrainedTokenizerFast.from_pretrained(model_dir(model))


def load_base(model, changed_config=None, attention="eager"):
    """The tiny model in float32, its config.json replaced by `changed_config` if given."""
    with tempfile.TemporaryDirectory() as folder:
        for file in model_dir(model).iterdir():
            shutil.copy(file, folder)
        if changed_config is not None:
            write_json(pathlib.Path(folder) / "config.json", changed_config)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


def read_config(model):
    return json.loads((model_dir(model) / "config.json").read_text())


def make_adapter(model, lora, folder):
    """Saves with PEFT an adapter whose A and B are both random: A as PEFT draws it, B normal with deviation 0.03."""
    adapted = peft.get_peft_model(load_base(model), lora)
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in sorted(adapted.named_parameters()):
        if "lora_A" in name:
            parameter.data.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) / parameter.shape[1] ** 0.5)
        elif "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.03)
    adapted.peft_config["default"].base_model_name_or_path = model
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink()
    for file in folder.iterdir():
        file.chmod(0o644)
    return {name: {"rank": layer.r["default"], "alpha": layer.lora_alpha["default"], "scaling": layer.scaling["default"]}
            for name, layer in adapted_layers(adapted)}


def adapted_layers(adapted):
    """(module name without PEFT's prefix, layer), sorted by name."""
    named = adapted.base_model.model.named_modules()
    return sorted((name, module) for name, module in named if isinstance(module, peft.tuners.lora.LoraLayer))


# ---------------------------------------------------------------------------------------------------------------- numbers


class Tokens:
    """TRL's token ids of preference rows."""

    def __init__(self, model):
        self.tokenizer = load_tokenizer(model)
        config = trl.DPOConfig(output_dir=tempfile.mkdtemp(), max_length=MAX_LENGTH, use_cpu=True, bf16=False, report_to=[],
                               gradient_checkpointing=False, disable_tqdm=True)
        some = Dataset.from_list([{key: PAIRS[0][key] for key in ("prompt", "chosen", "rejected")}])
        lora = peft.LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
        self.trainer = trl.DPOTrainer(model=load_base(model), args=config, train_dataset=some, processing_class=self.tokenizer,
                                      peft_config=lora)

    def of(self, row):
        row = copy.deepcopy({key: value for key, value in row.items() if key != "id"})
        prepared = self.trainer._prepare_dataset(Dataset.from_list([row]), self.tokenizer, self.trainer.args, "train")
        if len(prepared) != 1:
            raise SystemExit(f"TRL dropped a row: {row}")
        return {key: prepared[0][key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}

    def texts(self, row):
        """What the template renders, as the other goldens store it: of explicit prompts only."""
        if "prompt" not in row:
            return {}
        render = lambda messages, generation: self.tokenizer.apply_chat_template(messages, tokenize=False,
                                                                                 add_generation_prompt=generation)
        return {"prompt_text": render(row["prompt"], True),
                **{f"{side}_text": render(row["prompt"] + row[side], False) for side in ("chosen", "rejected")}}

    def sequences(self, ids):
        """(side, ids after truncation, tokens of the prompt) of the two sequences of a row."""
        batch = self.trainer.data_collator([ids])
        for i, side in enumerate(("chosen", "rejected")):
            length = int(batch["attention_mask"][i].sum())
            prompt = length - int(batch["completion_mask"][i].sum())
            yield side, batch["input_ids"][i, :length], prompt


def write_case(name, what, model, rows, changed_config=None, lora=None):
    """One folder. Without `lora` the adapter is the model's own golden one."""
    folder = args.goldens / "extra" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if changed_config is not None:
        write_json(folder / "config.json", changed_config)
    adapter = args.goldens / model / "adapter" if lora is None else folder / "adapter"
    modules = make_adapter(model, lora, adapter) if lora is not None else None
    run = lambda attention, config: peft.PeftModel.from_pretrained(load_base(model, config, attention), adapter).eval()
    adapted = run("eager", changed_config)
    # how far rounding alone moves the numbers: another attention kernel; Gemma 2 has no other, so wider matrix products
    rounded_otherwise = run("eager", changed_config).double() if model == "tiny-gemma2" else run("sdpa", changed_config)
    # the same tensors without what the case is about: the model's own config.json, alpha / r for every module
    plain = run("eager", None)
    for _, layer in adapted_layers(plain):
        options = plain.peft_config["default"]
        layer.scaling["default"] = options.lora_alpha / options.r

    encoder = Tokens(model)
    tokens, logps, refused, noise, difference = [], [], [], 0.0, 0.0
    for row in rows:
        try:
            ids = encoder.of(row)
        except Exception as error:  # a chat template may refuse a conversation
            refused.append({"row": row, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
            continue
        tokens.append({"id": row["id"], **ids, **encoder.texts(row)})
        for side, sequence, prompt in encoder.sequences(ids):
            policy, reference = policy_and_reference(adapted, sequence, prompt)
            again = policy_and_reference(rounded_otherwise, sequence, prompt)
            noise = max(noise, *(abs(float(a.sum() - b.sum())) for a, b in zip((policy, reference), again)))
            difference = max(difference, abs(float((policy_and_reference(plain, sequence, prompt)[0] - policy).sum())))
            logps.append({
                "id": row["id"], "side": side, "total_tokens": len(sequence), "completion_tokens": len(policy),
                "policy": float(policy.sum()), "reference": float(reference.sum()),
                "policy_per_token": policy.tolist(), "reference_per_token": reference.tolist()})
    kept = [row for row in rows if row["id"] in {item["id"] for item in tokens}]
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    write_items(folder / "tokens.json", {"note": "before truncation to max_length"}, tokens)
    write_items(folder / "logps.json", {"noise_floor_max_abs": noise}, logps)
    if refused:
        write_items(folder / "refused.json", {}, refused)
    write_json(folder / "meta.json", {
        "what": what, "model": model, "max_length": MAX_LENGTH, "dtype": "float32", "attention": "eager", "versions": VERSIONS,
        "adapter": "adapter" if lora is not None else f"../../{model}/adapter",
        "config": "config.json" if changed_config is not None else f"../../{model}/model/config.json",
        **({"differs_from_plain": difference} if difference else {}), **({"modules": modules} if modules else {})})
    return folder, adapted, noise, difference


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_items(path, head, items):
    """{head..., "items": [one a line]}"""
    lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    body = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)
    path.write_text("{\n" + "".join(lines) + ' "items": [\n' + body + "\n ]\n}\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------- cases


def rope_dynamic():
    """Llama with dynamic (NTK) rope: the base grows with the length of a sequence beyond max_position_embeddings."""
    config = read_config("tiny-llama")
    config.update(max_position_embeddings=64)
    config.pop("rope_scaling")
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": config.pop("rope_theta")}
    rows = rows_around_length(load_tokenizer("tiny-llama"), 64) + first_pairs(4)
    folder, adapted, noise, difference = write_case("rope-dynamic", rope_dynamic.__doc__, "tiny-llama", rows, config)
    # the order of sequences must not matter here, as it does in transformers: a long one, then one that is shorter, on one model
    sequences = [ids for item in read_items(folder / "tokens.json") for _, ids, _ in Tokens("tiny-llama").sequences(item)]
    long = max(sequences, key=len)
    shorter = max((s for s in sequences if 64 < len(s) < len(long)), key=len)
    new_rotary_embeddings(adapted)
    alone_logps = token_logps(adapted, shorter, 1)
    new_rotary_embeddings(adapted)
    token_logps(adapted, long, 1)
    assert (token_logps(adapted, shorter, 1) - alone_logps).abs().max() > 1e-3, "transformers no longer keeps the longest base"
    return folder, adapted, noise, difference


def rope_linear():
    """Llama with linear rope scaling, in the older form of config.json and with the old key `type`."""
    config = read_config("tiny-llama")
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}
    return write_case("rope-linear", rope_linear.__doc__, "tiny-llama", first_pairs(4), config)


def rope_longrope():
    """Phi-3 with longrope: short factors up to 64 tokens, long ones beyond; the answers of one pair may differ in it."""
    config = read_config("tiny-phi3")
    config["original_max_position_embeddings"] = 64
    rows = rows_around_length(load_tokenizer("tiny-phi3"), 64) + first_pairs(2)
    return write_case("rope-longrope", rope_longrope.__doc__, "tiny-phi3", rows, config)


def family_gemma():
    """Gemma (the first): the weights of tiny-gemma2 without its further norms, under a config.json of Gemma in the published form."""
    config = read_config("tiny-gemma2")
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "layer_types",
                "cache_implementation"):
        config.pop(key, None)
    config.update(model_type="gemma", architectures=["GemmaForCausalLM"], hidden_act="gelu", hidden_activation=None)
    return write_case("family-gemma", family_gemma.__doc__, "tiny-gemma2", first_pairs(4), config)


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none", "task_type": "CAUSAL_LM",
                              "target_modules": LINEARS} | options)


# In sorted order: PEFT sorts the keys of adapter_config.json when it saves, and the first key that matches decides, so that an
# adapter whose patterns overlap in another order is built with other ranks than those it is loaded with.
RANKS = {"layers.1.self_attn.q_proj": 5, r"layers\.[02]\.mlp\.(gate|up)_proj": 6, "model.layers.3.mlp.down_proj": 1, "q_proj": 2}
ALPHAS = {r".*\.3\.self_attn\.k_proj": 20, "down_proj": 2, "v_proj": 3}


def lora_rslora():
    """Rank-stabilised LoRA: scaling = alpha / sqrt(rank)."""
    return write_case("lora-rslora", lora_rslora.__doc__, "tiny-llama", first_pairs(4), lora=lora(use_rslora=True))


def lora_patterns():
    """rank_pattern and alpha_pattern, by suffix, by regular expression and by full name; the first key of the file that matches wins."""
    return write_case("lora-patterns", lora_patterns.__doc__, "tiny-llama", first_pairs(4),
                      lora=lora(rank_pattern=RANKS, alpha_pattern=ALPHAS))


def lora_rslora_patterns():
    """rsLoRA together with rank_pattern and alpha_pattern, on Phi-3's fused linears."""
    options = dict(rank_pattern={r"layers\.1\.mlp\.gate_up_proj": 6, "qkv_proj": 2}, alpha_pattern={"o_proj": 3}, use_rslora=True)
    return write_case("lora-rslora-patterns", lora_rslora_patterns.__doc__, "tiny-phi3", first_pairs(2),
                      lora=lora(target_modules="all-linear", **options))


def lora_regex():
    """target_modules as a regular expression, less exclude_modules as a regular expression."""
    options = dict(target_modules=r".*\.layers\.\d+\.(self_attn\.[qv]_proj|mlp\.down_proj)", exclude_modules=r".*\.2\.mlp\..*")
    return write_case("lora-regex", lora_regex.__doc__, "tiny-llama", first_pairs(2), lora=lora(**options))


def lora_layers():
    """target_modules as a short list, in the layers of layers_to_transform only, less exclude_modules as a list."""
    options = dict(target_modules=["q_proj", "o_proj", "mlp.up_proj"], layers_to_transform=[1, 3], exclude_modules=["3.self_attn.o_proj"])
    return write_case("lora-layers", lora_layers.__doc__, "tiny-llama", first_pairs(2), lora=lora(**options))


def conversations(model):
    def case():
        what = f"System prompts and conversations of several turns through the chat template of {model}."
        return write_case(f"conversations-{model}", what, model, CONVERSATIONS)
    return case


LLAMA_TARGETS = [
    {"target_modules": None},
    {"target_modules": "all-linear"},
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": ["self_attn.o_proj", "model.layers.1.mlp.down_proj", "layers.2.mlp.up_proj"]},
    {"target_modules": ["proj"]},
    {"target_modules": ["q_proj", "no_such_proj"]},
    {"target_modules": ["1.self_attn.q_proj"]},
    {"target_modules": r".*\.(q_proj|v_proj)"},
    {"target_modules": r".*q_proj"},
    {"target_modules": r"q_proj"},
    {"target_modules": r"model\.layers\.[02]\.mlp\.(up|down)_proj"},
    {"target_modules": r".*layers.[13].*_proj"},
    {"target_modules": r"(?:.*?\.)?layers\.\d{1,}\.(?:self_attn|mlp)\.(?:k_proj|gate_proj)$"},
    {"target_modules": r"model\.layers\.(?!0)\d+\.self_attn\.q_proj"},
    {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    {"target_modules": "all-linear", "exclude_modules": r".*\.[013]\..*"},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.q_proj", "model.layers.3.self_attn.k_proj"]},
    {"target_modules": ["q_proj"], "exclude_modules": r"q_proj"},
    {"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1, 3]},
    {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 2},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj"], "layers_to_transform": [7]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "h"},
    {"target_modules": ["q_proj"], "layers_pattern": "layers"},
    {"target_modules": "all-linear", "layers_to_transform": [1]},
    {"target_modules": r".*q_proj", "layers_to_transform": [1]},
    {"target_modules": []},
]
PHI3_TARGETS = [
    {"target_modules": "all-linear"},
    {"target_modules": None},
    {"target_modules": ["qkv_proj", "gate_up_proj"]},
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": r".*\.layers\.[12]\.mlp\..*_proj"},
]


def targets():
    """Which modules PEFT adapts for target_modules, exclude_modules, layers_to_transform and layers_pattern."""
    items = []
    for model, options in [("tiny-llama", o) for o in LLAMA_TARGETS] + [("tiny-phi3", o) for o in PHI3_TARGETS]:
        item = {"model": model, **options}
        try:
            adapted = peft.get_peft_model(load_base(model), peft.LoraConfig(r=1, task_type="CAUSAL_LM", **options))
            item["modules"] = [name for name, _ in adapted_layers(adapted)]
            written = adapted.peft_config["default"].target_modules
            item["written_target_modules"] = written if isinstance(written, str) else sorted(written)
        except Exception as error:
            item["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        items.append(item)
    folder = args.goldens / "extra"
    folder.mkdir(exist_ok=True)
    write_items(folder / "targets.json", {"what": targets.__doc__, "versions": VERSIONS}, items)
    print(f"targets: {len(items)} items, {sum('error' in item for item in items)} of them errors")


def read_items(path):
    return json.loads(path.read_text(encoding="utf-8"))["items"]


CASES = {
    "rope-dynamic": rope_dynamic,
    "rope-linear": rope_linear,
    "rope-longrope": rope_longrope,
    "family-gemma": family_gemma,
    "lora-rslora": lora_rslora,
    "lora-patterns": lora_patterns,
    "lora-rslora-patterns": lora_rslora_patterns,
    "lora-regex": lora_regex,
    "lora-layers": lora_layers,
    **{f"conversations-{model}": conversations(model)
       for model in ("tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-gemma2", "tiny-mistral", "tiny-phi3")},
}


def main():
    wanted = args.only.split(",") if args.only else [*CASES, "targets"]
    for name in wanted:
        if name == "targets":
            targets()
            continue
        folder, _, noise, difference = CASES[name]()
        lengths = [item["total_tokens"] for item in read_items(folder / "logps.json")]
        refused = len(read_items(folder / "refused.json")) if (folder / "refused.json").exists() else 0
        print(f"{name}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens, {refused} rows refused, "
              f"noise {noise:.1e} nats, up to {difference:.2f} nats from the plain case", flush=True)
        if not name.startswith(("conversations", "lora-regex", "lora-layers")) and difference < 0.1:
            raise SystemExit(f"{name}: hardly differs from the plain case, so it would not catch a missing feature")


main()
