#!/usr/bin/env python3
"""Do PEFT and transformers get our log-probs from the files we wrote? Exit 1 if not.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    align-cli score --model MODEL --adapter ADAPTER --data ROWS.jsonl --precision f32 --json --per-token > scores.jsonl
    python tests/oracles/check_peft.py --model MODEL --adapter ADAPTER --data ROWS.jsonl --scores scores.jsonl
    align-cli merge --model MODEL --adapter ADAPTER --output MERGED
    python tests/oracles/check_peft.py ... --merged MERGED

The model runs in float32 with eager attention, each sequence alone. Checked, in this order:

1. PEFT loads the adapter: every tensor of the file has its place, none is missing, and not every B is zero (an untrained adapter
   would prove nothing).
2. Token ids: those that the tokenizer and the chat template give by TRL's rules are those that `score` scored.
3. Log-probs of policy and reference: within 1e-4 per token and 1e-3 summed over an answer (`--token-tolerance`,
   `--sum-tolerance`), in nats. Rounding of another attention kernel moves the sums of the tiny models by up to 4e-4.
4. With `--merged`: transformers loads the directory with no tensor missing or left over; every weight is the exact
   `W + scaling B A` rounded to the dtype it is stored in; and the merged model's summed log-probs are as close to the adapted
   model's as those of the exactly merged weights rounded to that dtype, within a factor of 2 (plus 1e-3): the rounding of W is all
   that merging may cost.
"""
import argparse
import json
import os
import pathlib

import oracle

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--adapter", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, nargs="+", required=True)
parser.add_argument("--scores", type=pathlib.Path, required=True, help="output of `align-cli score --json --per-token`")
parser.add_argument("--merged", type=pathlib.Path, help="output of `align-cli merge`")
parser.add_argument("--max-length", type=int, default=1024, help="as given to `score`")
parser.add_argument("--limit", type=int, help="check the first so many rows only")
parser.add_argument("--token-tolerance", type=float, default=1e-4)
parser.add_argument("--sum-tolerance", type=float, default=1e-3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

oracle.before_imports(args.threads)

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
from alone import new_rotary_embeddings, policy_and_reference, token_logps  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from trl.data_utils import extract_prompt  # noqa: E402

oracle.after_imports(args.threads)

# half a unit in the last place, relative to the value
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
check = oracle.Checks()


def load_model(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options)


def load_adapted():
    adapted = peft.PeftModel.from_pretrained(load_model(args.model), args.adapter).eval()
    stored = load_file(args.adapter / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): value for name, value in adapted.named_parameters() if ".lora_" in name}
    check(stored.keys() == loaded.keys(), f"adapter: PEFT has the {len(stored)} tensors of the file, no more and no fewer "
          f"(only in the file: {sorted(stored.keys() - loaded.keys())[:3]}, missing: {sorted(loaded.keys() - stored.keys())[:3]})")
    same = all(torch.equal(stored[name].float(), loaded[name].data) for name in stored.keys() & loaded.keys())
    check(same, "adapter: PEFT loaded the values of the file")
    largest = max(float(value.abs().max()) for name, value in stored.items() if "lora_B" in name)
    check(largest > 0, f"adapter: B is not zero (largest entry {largest:.3g})")
    return adapted


class Rows:
    """Token ids by TRL's rules."""

    def __init__(self):
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)

    def answers(self, row):
        """(key, answer) of a row, and its prompt."""
        if "chosen" in row:
            row = row if "prompt" in row else extract_prompt(row)
            return row["prompt"], [("chosen", row["chosen"]), ("rejected", row["rejected"])]
        if "completion" in row:
            return row["prompt"], [("completion", row["completion"])]
        return row["prompt"], [(f"completions[{i}]", answer) for i, answer in enumerate(row["completions"])]

    def template(self, messages, generation_prompt):
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=generation_prompt, return_dict=False)

    def encode(self, row):
        """Length of the prompt that the answers share, and (key, ids of prompt and answer cut to max_length)."""
        prompt, answers = self.answers(row)
        if isinstance(prompt, str):
            end = self.tokenizer.eos_token
            close = lambda text: text if text.endswith(end) else text + end
            prompt_ids = self.tokenizer(prompt)["input_ids"]
            full = [(key, self.tokenizer(prompt + close(answer))["input_ids"]) for key, answer in answers]
        else:
            as_messages = lambda answer: answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
            prompt_ids = self.template(prompt, True)
            full = [(key, self.template(prompt + as_messages(answer), False)) for key, answer in answers]
        shared = len(os.path.commonprefix([prompt_ids, *(ids for _, ids in full)]))
        return shared, [(key, torch.tensor(ids[: args.max_length])) for key, ids in full]


class Largest:
    """The largest difference of a kind, and where it is."""

    def __init__(self):
        self.value, self.place = 0.0, "nowhere"

    def see(self, value, place):
        # not `>` alone: a NaN must end up as the largest
        if not value <= self.value:
            self.value, self.place = value, place

    def __str__(self):
        return f"{self.value:.3g} at {self.place}"


def scored_answer(score, key):
    """The part of a score line that `key` of Rows.answers names."""
    if key.startswith("completions["):
        return score["completions"][int(key[12:-1])]
    return score[key]


def read_jsonl(paths):
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def check_scores(adapted):
    """Compares the score file; returns (place, ids, prompt tokens, policy log-prob by PEFT) of every sequence."""
    encoder, rows, scores = Rows(), read_jsonl(args.data), read_jsonl([args.scores])
    check([score["row"] for score in scores] == list(range(len(rows))), f"scores: one line for each of {len(rows)} rows, in order")
    largest = {key: Largest() for key in ("policy sum", "policy token", "reference sum", "reference token")}
    sequences, wrong_ids, dropped, spread = [], [], 0, 0.0
    for score in scores[: args.limit]:
        if "dropped" in score:
            dropped += 1
            continue
        prompt, answers = encoder.encode(rows[score["row"]])
        for key, ids in answers:
            place, ours = f"row {score['row']} {key}", scored_answer(score, key)
            counts = {ours["tokens"], *(len(ours[f"{prefix}token_logps"]) for prefix in ("", "reference_"))}
            if score["prompt_tokens"] != prompt or ours["token_ids"] != ids[prompt:].tolist() or counts != {len(ids) - prompt}:
                wrong_ids.append(place)
                continue
            policy, reference = policy_and_reference(adapted, ids, prompt)
            spread = max(spread, abs(float((policy - reference).sum())))
            sequences.append((place, ids, prompt, float(policy.double().sum())))
            for name, theirs, prefix in (("policy", policy, ""), ("reference", reference, "reference_")):
                theirs = theirs.double()
                per_token = torch.tensor(ours[f"{prefix}token_logps"], dtype=torch.float64)
                largest[f"{name} sum"].see(abs(ours[f"{prefix}logps"] - float(theirs.sum())), place)
                for i, difference in enumerate((per_token - theirs).abs().tolist()):
                    largest[f"{name} token"].see(difference, f"{place} token {i}")
    check(not wrong_ids, f"token ids: {len(sequences)} sequences agree, {len(wrong_ids)} do not {wrong_ids[:5]}")
    check(len(sequences) > 0, f"scores: {dropped} rows were dropped by `score`, {len(sequences)} sequences were compared")
    for name, difference in largest.items():
        tolerance = args.sum_tolerance if name.endswith("sum") else args.token_tolerance
        check(difference.value <= tolerance, f"{name} log-probs: largest difference {difference} (tolerance {tolerance:g})")
    print(f"      policy and reference differ by up to {spread:.3g} nats")
    return sequences


def exactly_merged(adapted):
    """name -> W + scaling B A in float64, of every parameter of the base. Unloads the adapter."""
    exact = {}
    for name, module in adapted.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            a, b = module.lora_A["default"].weight.double(), module.lora_B["default"].weight.double()
            exact[f"{name}.weight"] = module.base_layer.weight.double() + module.scaling["default"] * (b @ a)
    base = adapted.unload()
    return {name: exact.get(name, value.detach().double()) for name, value in base.state_dict().items()}


@torch.no_grad()
def check_merged(adapted, sequences):
    merged, info = load_model(args.merged, output_loading_info=True)
    left = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    check(not left, f"merged: transformers loads {args.merged} with nothing missing or left over {left or ''}")
    stored = {}
    for path in sorted(args.merged.glob("*.safetensors")):
        stored |= load_file(path)
    exact, worst, inexact = exactly_merged(adapted), Largest(), 0
    rounded = load_model(args.model)
    for name, parameter in rounded.state_dict().items():
        if name not in stored:  # a head that is tied to the embedding is stored once
            continue
        ours, dtype = stored[name].double(), stored[name].dtype
        # beside the rounding of the stored dtype, that of the float32 in which B A and the sum are computed
        bound = ROUNDING[dtype] * exact[name].abs() + 1e-6 * exact[name].abs().max()
        worst.see(float(((ours - exact[name]).abs() / bound).max()), name)
        correct = exact[name].float().to(dtype)
        inexact += int((correct != stored[name]).sum())
        parameter.copy_(correct.float())
    total = sum(value.numel() for value in stored.values())
    check(worst.value <= 1.0, f"merged: largest distance from the exact weights, as a share of the rounding bound: {worst}")
    print(f"      {inexact} of {total} weights are not the nearest one (ties, and the float32 of the sum)")
    ours, theirs = Largest(), Largest()
    for place, ids, prompt, policy in sequences:
        for model, difference in ((merged.eval(), ours), (rounded.eval(), theirs)):
            new_rotary_embeddings(model)
            difference.see(abs(float(token_logps(model, ids, prompt).double().sum()) - policy), place)
    check(ours.value <= 2 * theirs.value + args.sum_tolerance,
          f"merged: summed log-probs differ from the adapted model's by up to {ours}; with exactly merged weights, rounded, by {theirs}")


def main():
    adapted = load_adapted()
    sequences = check_scores(adapted)
    if args.merged:
        check_merged(adapted, sequences)
    check.end()


main()
