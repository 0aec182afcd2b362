#!/usr/bin/env python3
"""Does `align-cli` learn from preference pairs what TRL learns from them? Exit 1 if not. Needs Python alone.

    cargo build --release
    python tests/oracles/learn.py --model DIR --out FOLDER [--loss dpo ...]

For each loss one epoch over `tests/data/pref_train.jsonl` (LoRA of rank 16 on all linear layers, learning rate 1e-4, 4 rows a
step, at most 512 tokens), then `eval` on `pref_eval.jsonl` and a short `generate` with the adapter, then `merge` of the first
loss's. Runs that FOLDER already holds are judged without running them again. Checked against `trl_learn.py`'s figures in
`tests/goldens/smollm2-135m/trl_learn.json`:

1. The first step's margin is exactly 0, and DPO's loss exactly ln 2.
2. Over the last quarter of the steps, the mean training accuracy (kto: the share of the steps with both labels whose margin is
   positive) is at least 0.6 where TRL's is.
3. The accuracy on the held-out pairs is within two binomial standard errors of TRL's (kto's rows are single answers, so its
   pairs are counted by `eval --loss dpo`: the accuracy does not depend on the loss), and `eval` prints what `train` found at its
   end.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
TRL_NAMES = {"dpo": "sigmoid", "exo": "exo_pair", "ipo": "ipo", "kto": "kto"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--loss", nargs="+", choices=list(TRL_NAMES), default=list(TRL_NAMES))
parser.add_argument("--align-cli", type=pathlib.Path, default=ROOT / "target/release/align-cli")
args = parser.parse_args()
failures = []


def align(*words):
    command = [args.align_cli, *map(str, words)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def check(holds, what):
    if not holds:
        failures.append(what)
        print("FAILED:", what, file=sys.stderr)


def last_quarter(loss, steps):
    """Mean accuracy, or for kto the share of positive margins, over the last quarter of the steps."""
    tail = steps[-math.ceil(len(steps) / 4):]
    if loss == "kto":
        return statistics.mean(step["rewards/margins"] > 0 for step in tail if step.get("rewards/margins") is not None)
    return statistics.mean(step["rewards/accuracies"] for step in tail)


def run(loss):
    adapter = args.out / loss
    if not (adapter / "adapter_model.safetensors").exists():
        align("train", "--model", args.model, "--data", DATA / "pref_train.jsonl", "--eval-data", DATA / "pref_eval.jsonl",
              "--loss", loss, "--lora-rank", 16, "--learning-rate", 1e-4, "--batch-size", 4, "--max-length", 512, "--allow-drops",
              "--output", adapter)
    metrics = [json.loads(line) for line in (adapter / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in metrics if "loss" in row]
    at_end = [row for row in metrics if "eval_loss" in row][-1]
    held_out = ("eval", "--model", args.model, "--adapter", adapter, "--data", DATA / "pref_eval.jsonl", "--max-length", 512, "--json")
    evaluated = json.loads(align(*held_out))
    pairs = json.loads(align(*held_out, "--loss", "dpo")) if loss == "kto" else evaluated
    said = align("generate", "--model", args.model, "--adapter", adapter, "--prompt", "What is a lighthouse?",
                 "--max-new-tokens", 24)

    check(all((step.get("rewards/margins") or 0.0) == 0.0 for step in steps[:1]), f"{loss}: the first margin is exactly 0")
    if loss == "dpo":
        check(steps[0]["loss"] == math.log(2), f"dpo: the first loss is ln 2, not {steps[0]['loss']}")
    check(said.strip() != "", f"{loss}: generate says something")
    return steps, at_end, evaluated, pairs["eval_rewards/accuracies"]


def main():
    truth = json.loads((ROOT / "tests/goldens/smollm2-135m/trl_learn.json").read_text())
    print("| loss | last quarter, ours | TRL | held-out accuracy, ours | TRL | two standard errors |\n|---|---|---|---|---|---|")
    for loss in args.loss:
        steps, at_end, evaluated, accuracy = run(loss)
        trl = truth[TRL_NAMES[loss]]
        ours, theirs = last_quarter(loss, steps), trl["train_margin_positive_last_quarter" if loss == "kto"
                                                      else "train_accuracy_last_quarter"]
        check(ours >= 0.6 or theirs < 0.6, f"{loss}: {ours:.3f} over the last quarter, where TRL has {theirs:.3f}")
        peer = trl["eval_rewards/accuracies"]
        bound = 2 * math.sqrt(peer * (1 - peer) / trl["eval_pairs"])
        check(abs(accuracy - peer) <= bound, f"{loss}: held-out accuracy {accuracy:.3f}, TRL's {peer:.3f} +- {bound:.3f}")
        for key, value in evaluated.items():
            if key.startswith("eval_"):
                check(math.isclose(value, at_end[key], rel_tol=1e-12, abs_tol=1e-12),
                      f"{loss}: eval says {key} {value}, train said {at_end[key]}")
        print(f"| {loss} | {ours:.3f} | {theirs:.3f} | {accuracy:.3f} | {peer:.3f} | {bound:.3f} |", flush=True)
    merged = args.out / "merged"
    if not merged.exists():
        align("merge", "--model", args.model, "--adapter", args.out / args.loss[0], "--output", merged)
    align("inspect", "--model", merged)
    sys.exit(1 if failures else 0)


main()
