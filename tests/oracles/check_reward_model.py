#!/usr/bin/env python3
"""Does transformers give the rewards that we printed, from the files that we wrote? Exit 1 if not.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    align-cli score --model MODEL --reward-model ADAPTER --data ROWS.jsonl --precision f32 --json > rewards.jsonl
    python tests/oracles/check_reward_model.py --model MODEL --adapter ADAPTER --data ROWS.jsonl --rewards rewards.jsonl

The model is `AutoModelForSequenceClassification(num_labels=1)` in float32 with PEFT's adapter, nothing of either changed. Checked:

1. PEFT loads the adapter: every tensor of the file has its place, none is missing, and neither B nor the head is all zero (an untrained
   adapter would prove nothing).
2. Rewards of the answers alone, and where the model has a padding token in batches of several answers padded on the right: within
   `--tolerance` of ours, as a share of the largest reward or of 1. Token ids are those of TRL's RewardTrainer: the chat template over
   prompt and answer, or strings with EOS at the end.
3. The order of the answers of every row is ours wherever their rewards differ by more than the tolerance.
"""
import argparse
import json
import pathlib

import oracle

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--adapter", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--rewards", type=pathlib.Path, required=True, help="output of `align-cli score --reward-model ADAPTER --json`")
parser.add_argument("--limit", type=int, help="check the first so many rows only")
parser.add_argument("--batch-size", type=int, default=4, help="answers in a padded batch")
parser.add_argument("--tolerance", type=float, default=1e-4)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

oracle.before_imports(args.threads)

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
from alone import new_rotary_embeddings  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

oracle.after_imports(args.threads)
check = oracle.Checks()


def load():
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=1, dtype=torch.float32, attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(base, args.adapter).eval()
    stored = load_file(args.adapter / "adapter_model.safetensors")
    named = {name.replace("modules_to_save.default.", "").replace(".default", ""): value
             for name, value in model.named_parameters() if ".lora_" in name or "modules_to_save.default" in name}
    check(stored.keys() == named.keys(), f"adapter: PEFT has the {len(stored)} tensors of the file, no more and no fewer "
          f"(only in the file: {sorted(stored.keys() - named.keys())[:3]}, missing: {sorted(named.keys() - stored.keys())[:3]})")
    check(all(torch.equal(stored[name].float(), named[name].data) for name in stored.keys() & named.keys()),
          "adapter: PEFT loaded the values of the file")
    largest = {part: max((float(value.abs().max()) for name, value in stored.items() if part in name), default=0.0)
               for part in ("lora_B", "score")}
    check(all(value > 0 for value in largest.values()), f"adapter: not untrained (largest entries {largest})")
    return model


def sequences(tokenizer, row):
    """(key, token ids) of the row's answers."""
    prompt = row.get("prompt", "" if isinstance(row.get("chosen"), str) else [])
    if "chosen" in row:
        answers = [("chosen", row["chosen"]), ("rejected", row["rejected"])]
    elif "completion" in row:
        answers = [("completion", row["completion"])]
    else:
        answers = [(i, answer) for i, answer in enumerate(row["completions"])]
    for key, answer in answers:
        if isinstance(prompt, str):
            end = tokenizer.eos_token
            yield key, tokenizer(prompt + (answer if answer.endswith(end) else answer + end))["input_ids"]
        else:
            turns = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
            yield key, tokenizer.apply_chat_template(prompt + turns, return_dict=False)


@torch.no_grad()
def rewards(model, batch, pad):
    longest = max(map(len, batch))
    ids = torch.tensor([list(one) + [pad] * (longest - len(one)) for one in batch])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in batch])
    new_rotary_embeddings(model)
    return model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()


def main():
    model = load()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    ours, ids, rows = [], [], []
    lines = zip(open(args.data, encoding="utf-8"), open(args.rewards, encoding="utf-8"), strict=True)
    for number, (row, score) in enumerate(lines):
        if number == args.limit:
            break
        score = json.loads(score)
        if "dropped" in score:
            continue
        places = []
        for key, tokens in sequences(tokenizer, json.loads(row)):
            answer = score["completions"][key] if isinstance(key, int) else score[key]
            places.append(len(ours))
            ours.append(answer["reward"])
            ids.append(tokens)
            check_tokens = score["prompt_tokens"] + answer["tokens"]
            if check_tokens != len(tokens):
                check(False, f"row {number} {key}: {check_tokens} tokens here, {len(tokens)} in transformers")
        rows.append((number, places))
    bound = args.tolerance * max(1.0, max(map(abs, ours)))
    alone = [rewards(model, [one], 0)[0] for one in ids]
    worst = max(range(len(ours)), key=lambda i: abs(ours[i] - alone[i]))
    check(abs(ours[worst] - alone[worst]) <= bound, f"rewards: {len(ours)} answers alone, the largest difference is "
          f"{abs(ours[worst] - alone[worst]):.3g} (of rewards up to {max(map(abs, ours)):.3g}; bound {bound:.3g})")
    pad = model.config.get_text_config().pad_token_id
    if pad is None:
        print("      not checked: padded batches, the model's config.json has no pad_token_id")
    else:
        padded = []
        for first in range(0, len(ids), args.batch_size):
            padded += rewards(model, ids[first:first + args.batch_size], pad)
        difference = max(abs(a - b) for a, b in zip(ours, padded))
        check(difference <= bound, f"rewards: in batches of {args.batch_size}, padded with {pad}: the largest difference is {difference:.3g}")
    wrong = [number for number, places in rows for a in places for b in places
             if ours[a] - ours[b] > 2 * bound and alone[a] <= alone[b]]
    check(not wrong, f"order: the answers of {len(rows)} rows are in our order (not: {wrong[:5]})")
    check.end()


main()
