#!/usr/bin/env python3
"""Goldens of what a row of data becomes: token ids and scored tokens of every shape, as TRL prepares them.

    pip install torch==2.15.0 transformers==5.23.0 trl==1.16.0 blake3
    python tests/oracles/make_row_goldens.py [--smollm2 DIR]

Writes `tests/goldens/rows/<model>.json` for the tiny models of `tests/goldens` (and the directory that `make_smollm2.py` made), from
all rows of `tests/data/pref_train.jsonl` and `pref_eval.jsonl`, with `--max-length` 1024. The methods that prepare the data sets of
TRL's own trainers do the work; no model is loaded. About a minute a model.

A row is the list of its token ids after truncation, up to its last scored token, the scored ones with bit 31 set; the first token is
never scored, because nothing predicts it. Of a case: `all`, the BLAKE3 hash of all rows, each as its number of tokens and its
tokens, 32-bit little-endian; `each`, the first 4 hexadecimal digits of the hash of each row, `....` for one that the trainer drops,
`!!!!` for one that the chat template refuses; `first`, the first short row in full. `tests/goldens/rows/README.md` lists the cases.
"""
import argparse
import copy
import json
import os
import pathlib
import tempfile
import types
import warnings

os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", HF_DATASETS_CACHE=tempfile.mkdtemp(),
                  HF_DATASETS_DISABLE_PROGRESS_BARS="1")
warnings.filterwarnings("ignore")

import blake3  # noqa: E402  the environment above must be set first
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402

transformers.logging.set_verbosity_error()
ROOT = pathlib.Path(__file__).parents[1]
MAX_LENGTH = 1024
SCORED = 1 << 31
FULL = 1  # rows of a case that are stored in full, short ones
SHORT = 100

# ChatML whose assistant turns are marked, end token included
GENERATION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather of a <place>.", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}]
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "weather",
                                                                             "arguments": {"place": "Bramble"}}}]}
# rows whose columns the template reads; ids are stored in full
SPECIAL = [
    {"prompt": [{"role": "user", "content": "Weather?"}], "completion": [{"role": "assistant", "content": "Rain."}],
     "tools": json.dumps(TOOLS)},
    {"prompt": [{"role": "user", "content": "Weather?"}], "completion": [CALL], "tools": TOOLS},
    {"prompt": [{"role": "user", "content": "Weather?"}], "completion": [{"role": "assistant", "content": "Rain."}],
     "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [{"role": "user", "content": "Weather?"}, CALL, {"role": "tool", "content": "rain"},
                  {"role": "assistant", "content": "Rain."}], "tools": TOOLS},
    {"conversations": [{"from": "user", "value": "Weather?"}, {"from": "assistant", "value": "Rain."}]},
    {"messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Rain.", "tool_calls": None}]},
]


def pairs():
    for name in ("pref_train", "pref_eval"):
        for line in (ROOT / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def plain(row):
    """A pair as strings: what the system says, then a dialogue that ends with `Assistant:`."""
    speaker = {"system": "", "user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    prompt = "".join(speaker[turn["role"]] + turn["content"] for turn in row["prompt"])
    return {"prompt": prompt + "\n\nAssistant:", **{side: " " + row[side][0]["content"] for side in ("chosen", "rejected")}}


def unpaired(rows):
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows for side in ("chosen", "rejected")]


class Trainers:
    """What the trainers' methods read of a trainer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def sft(self, rows, completion_only, assistant_only=False, chat_template=None):
        args = types.SimpleNamespace(dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=assistant_only,
                                     max_length=MAX_LENGTH, truncation_mode="keep_start", shuffle_dataset=False)
        me = types.SimpleNamespace(_tokenizer=self.tokenizer, completion_only_loss=completion_only, chat_template=chat_template)
        prepared = trl.SFTTrainer._prepare_dataset(me, Dataset.from_list(rows), self.tokenizer, args, False, None, "train")
        for row in prepared:
            yield row["number"], list(zip(row["input_ids"], (label != -100 for label in row["labels"])))

    def kto(self, rows):
        args = types.SimpleNamespace(dataset_num_proc=None, max_length=MAX_LENGTH)
        me = types.SimpleNamespace(_tokenizer=self.tokenizer, calculate_KL=False)
        prepared = trl.KTOTrainer._prepare_dataset(me, Dataset.from_list(rows), self.tokenizer, args, "eval")
        for row in prepared:
            yield row["number"], both(row["prompt_ids"], row["completion_ids"])

    def pairs(self, rows):
        args = types.SimpleNamespace(dataset_num_proc=None, max_length=MAX_LENGTH, truncation_mode="keep_start")
        me = types.SimpleNamespace(_tokenizer=self.tokenizer, _is_vlm=False)
        prepared = trl.DPOTrainer._prepare_dataset(me, Dataset.from_list(rows), self.tokenizer, args, "train")
        for row in prepared:
            yield row["number"], both(row["prompt_ids"], row["chosen_ids"]) + both(row["prompt_ids"], row["rejected_ids"])


def both(prompt, completion):
    return ([(token, False) for token in prompt] + [(token, True) for token in completion])[:MAX_LENGTH]


def words(tokens):
    """The tokens up to the last scored one; none if nothing is."""
    tokens = [(token, scored and i > 0) for i, (token, scored) in enumerate(tokens)]
    while tokens and not tokens[-1][1]:
        tokens.pop()
    return [token | (SCORED if scored else 0) for token, scored in tokens]


def refused(tokenizer, row, chat_template):
    """Whether the chat template refuses the row: one such row would end TRL's whole preparation."""
    turns = row.get("messages") or (row["prompt"] if isinstance(row.get("prompt"), list) else None)
    if turns is None:
        return False
    whole = [turns] if "messages" in row else [turns + row[side] for side in ("completion", "chosen", "rejected") if side in row]
    try:
        if "messages" not in row:
            tokenizer.apply_chat_template(turns, chat_template=chat_template, tokenize=False, add_generation_prompt=True)
        for conversation in whole:
            tokenizer.apply_chat_template(conversation, chat_template=chat_template, tokenize=False)
        return False
    except Exception as error:  # jinja2's TemplateError, or what a template stumbles over
        assert "jinja2" in type(error).__module__ or isinstance(error, TypeError), error
        return True


def case(tokenizer, rows, prepare, chat_template=None):
    each = ["...."] * len(rows)
    good = []
    for number, row in enumerate(rows):
        if refused(tokenizer, row, chat_template):
            each[number] = "!!!!"
        else:
            good.append({**copy.deepcopy(row), "number": number})
    all_rows, first = blake3.blake3(), []
    for number, tokens in prepare(good) if good else []:
        row = words(tokens)
        if not row:
            continue
        data = b"".join(word.to_bytes(4, "little") for word in [len(row), *row])
        all_rows.update(data)
        each[number] = blake3.blake3(data).hexdigest()[:4]
        if len(first) < FULL and len(row) <= SHORT:
            first.append({"number": number, "words": row})
    return {"all": all_rows.hexdigest(), "each": "".join(each), "first": first}


def special(trainers):
    items = []
    for row in SPECIAL:
        try:
            tokens = next(trainers.sft([{**copy.deepcopy(row), "number": 0}], "prompt" in row))[1]
            items.append({"row": row, "words": words(tokens)})
        except Exception as error:
            assert "jinja2" in type(error).__module__ or isinstance(error, TypeError), error
            items.append({"row": row, "refused": True})
    return items


def make(model, out):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    trainers = Trainers(tokenizer)
    conversational = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pairs()]
    strings = [plain(row) for row in conversational]
    completions = lambda rows: [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    messages = [{"messages": row["prompt"] + row["chosen"]} for row in conversational]
    texts = [{"text": row["prompt"] + row["chosen"]} for row in strings]
    cases = {
        "pairs_conversational": case(tokenizer, conversational, trainers.pairs),
        "pairs_plain": case(tokenizer, strings, trainers.pairs),
        "labelled_conversational": case(tokenizer, unpaired(conversational), trainers.kto),
        "labelled_plain": case(tokenizer, unpaired(strings), trainers.kto),
        "completion_conversational": case(tokenizer, completions(conversational), lambda rows: trainers.sft(rows, True)),
        "completion_plain": case(tokenizer, completions(strings), lambda rows: trainers.sft(rows, True)),
        "completion_all": case(tokenizer, completions(strings), lambda rows: trainers.sft(rows, False)),
        "messages": case(tokenizer, messages, lambda rows: trainers.sft(rows, False)),
        "messages_assistant": case(
            tokenizer, messages, lambda rows: trainers.sft(rows, False, True, GENERATION_TEMPLATE), GENERATION_TEMPLATE),
        "text": case(tokenizer, texts, lambda rows: trainers.sft(rows, False)),
    }
    versions = {module.__name__: module.__version__ for module in (transformers, trl)}
    golden = {"versions": versions, "max_length": MAX_LENGTH, "generation_template": GENERATION_TEMPLATE, "cases": cases,
              "special": special(trainers)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(golden, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n", encoding="utf-8")
    print(out, {name: (len(made["each"]) // 4, made["each"].count("...."), made["each"].count("!!!!")) for name, made in cases.items()},
          [item.get("refused", len(item.get("words", []))) for item in golden["special"]])


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--smollm2", type=pathlib.Path, help="model directory that make_smollm2.py wrote")
parser.add_argument("--only", help="comma-separated names of models; default: all")
args = parser.parse_args()
models = {folder.parent.name: folder for folder in sorted((ROOT / "goldens").glob("tiny-*/model"))}
for same in ("tiny-llama31", "tiny-yarn"):  # tokenizer and template of tiny-llama, of tiny-qwen3
    del models[same]
if args.smollm2:
    models["smollm2-135m"] = args.smollm2
for name, folder in models.items():
    if not args.only or name in args.only.split(","):
        make(folder, ROOT / "goldens" / "rows" / f"{name}.json")
