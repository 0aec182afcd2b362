#!/usr/bin/env python3
"""What TRL learns from preference pairs in one epoch: accuracy while training, and on pairs held out from it.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python tests/oracles/trl_learn.py --model DIR --loss ipo --train tests/data/pref_train.jsonl \\
        --eval tests/data/pref_eval.jsonl --learning-rate 1e-4 --batch-size 4 --max-length 512 [--out FILE.json]

The truth for `align-cli train` followed by `align-cli eval` with the same options. LoRA of rank 16, alpha 32 on all linear
layers of the blocks; all arithmetic in float32 (`--dtype bfloat16`: the base's); AdamW without decay, learning rate falling linearly to zero, no
warm-up, gradients clipped at norm 1, beta 0.1, seed 0. `kto` needs unpaired rows for `--train` (pref_train_kto.jsonl) and
takes them in file order, as TRL demands; the other losses shuffle.

Prints one JSON object and, with `--out`, stores it in that file under the loss's name, beside those of other losses.

- `train_accuracy_last_quarter`: mean of `rewards/accuracies` over the last quarter of the steps (not for kto)
- `train_margin_positive_last_quarter`: share of those steps whose mean chosen reward exceeds the mean rejected one; kto counts
  only steps whose batch holds both labels. `train_margin_last_quarter` is the mean of that margin
- `eval_rewards/accuracies`: share of evaluation pairs whose chosen answer has the larger reward (strictly);
  `eval_standard_error` is its binomial standard error; `eval_pairs` counts the pairs that `--max-length` left
- `eval_logps/accuracies`: share whose chosen answer has the larger mean log-prob per token under the policy;
  `eval_reference_logps/accuracies` the same under the base model, that is before training
"""
import argparse
import json
import math
import pathlib
import platform
import statistics
import tempfile
import time

import oracle

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--loss", choices=["sigmoid", "exo_pair", "ipo", "kto"], required=True)
parser.add_argument("--train", type=pathlib.Path, required=True)
parser.add_argument("--eval", type=pathlib.Path, required=True, help="paired rows, for kto too")
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--max-steps", type=int, default=-1, help="stop early; the schedule still ends at zero")
parser.add_argument("--max-minutes", type=float, default=math.inf, help="stop after so long, wherever the schedule is, and say so")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the base; the adapter is float32")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out", type=pathlib.Path)
args = parser.parse_args()

oracle.before_imports(args.threads)

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from trl.trainer import utils as trl_utils  # noqa: E402

oracle.after_imports(args.threads)
# TRL applies the LM head to answer positions only when it is on a GPU; the numbers are the same, and the run is shorter
trl_utils._use_triton = lambda device: True

BETA, SEED = 0.1, 0
EXO_LABEL_SMOOTHING = 1e-3


def unpaired(pair):
    return [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"} for side in ("chosen", "rejected")]


def trainer():
    pairs = oracle.read_rows(args.eval, ("prompt", "chosen", "rejected"))
    common = dict(
        output_dir=tempfile.mkdtemp(), num_train_epochs=1, max_steps=args.max_steps, learning_rate=args.learning_rate,
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, beta=BETA, seed=SEED,
        max_length=args.max_length, bf16=False, use_cpu=True, gradient_checkpointing=False, per_device_eval_batch_size=1,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False)
    if args.loss == "kto":
        # one forward of the whole batch: TRL takes the mismatched answers from within it
        config = trl.KTOConfig(per_device_train_batch_size=args.batch_size, **common)
        make = trl.KTOTrainer
        train = oracle.read_rows(args.train, ("prompt", "completion", "label"))
        held_out = [row for pair in pairs for row in unpaired(pair)]
    else:
        smoothing = EXO_LABEL_SMOOTHING if args.loss == "exo_pair" else 0.0
        config = trl.DPOConfig(per_device_train_batch_size=1, gradient_accumulation_steps=args.batch_size,
                               loss_type=[args.loss], label_smoothing=smoothing, **common)
        make, train, held_out = trl.DPOTrainer, oracle.read_rows(args.train, ("prompt", "chosen", "rejected")), pairs
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    made = make(model=model, args=config, train_dataset=Dataset.from_list(train), eval_dataset=Dataset.from_list(held_out),
                processing_class=transformers.AutoTokenizer.from_pretrained(args.model), peft_config=lora)
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


@torch.no_grad()
def answer_logps(made, batch):
    """Summed log-probs of the answers of a batch under policy and reference, and their token counts."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False,
                  fused_lm_head=True)
    policy = made.model(**inputs).log_probs.double().sum(1)
    with made.model.disable_adapter():
        reference = made.model(**inputs).log_probs.double().sum(1)
    return policy.tolist(), reference.tolist(), batch["completion_mask"].sum(1).tolist()


def evaluate(made):
    made.model.eval()
    data, rows_per_pair = made.eval_dataset, 2 if args.loss == "kto" else 1
    margins, policy_first, reference_first = [], [], []
    for first in range(0, len(data), rows_per_pair):
        rows = [data[first + i] for i in range(rows_per_pair)]
        if args.loss == "kto" and (rows[0]["label"], rows[1]["label"]) != (True, False):
            raise SystemExit("TRL dropped one answer of a pair: the evaluation rows no longer alternate")
        policy, reference, tokens = answer_logps(made, made.data_collator(rows))
        margins.append(BETA * ((policy[0] - reference[0]) - (policy[1] - reference[1])))
        policy_first.append(policy[0] / tokens[0] > policy[1] / tokens[1])
        reference_first.append(reference[0] / tokens[0] > reference[1] / tokens[1])
    accuracy = statistics.mean(m > 0 for m in margins)
    return {
        "eval_pairs": len(margins),
        "eval_rewards/accuracies": accuracy,
        "eval_standard_error": math.sqrt(accuracy * (1 - accuracy) / len(margins)),
        "eval_rewards/margins": statistics.mean(margins),
        "eval_logps/accuracies": statistics.mean(policy_first),
        "eval_reference_logps/accuracies": statistics.mean(reference_first),
    }


def last_quarter(history):
    tail = history[-math.ceil(len(history) / 4):]
    margins = [step["rewards/margins"] for step in tail if "rewards/margins" in step]
    accuracies = [step["rewards/accuracies"] for step in tail if "rewards/accuracies" in step]
    return {
        "last_quarter_steps": len(tail),
        "last_quarter_steps_with_margin": len(margins),
        **({"train_accuracy_last_quarter": statistics.mean(accuracies)} if accuracies else {}),
        "train_margin_positive_last_quarter": statistics.mean(m > 0 for m in margins),
        "train_margin_last_quarter": statistics.mean(margins),
    }


class Deadline(transformers.TrainerCallback):
    def __init__(self):
        self.end = time.monotonic() + 60 * args.max_minutes

    def on_step_end(self, _args, _state, control, **_):
        if time.monotonic() > self.end:
            control.should_training_stop = True


def main():
    made = trainer()
    made.add_callback(Deadline())
    train_rows = len(made.train_dataset)
    start = time.monotonic()
    made.train()
    train_seconds = time.monotonic() - start
    history = [step for step in made.state.log_history if "rewards/chosen" in step or "rewards/rejected" in step]
    kept = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "kl")
    command = (f"tests/oracles/trl_learn.py --model {args.model.name} --loss {args.loss} --train {args.train.name} "
               f"--eval {args.eval.name} --learning-rate {args.learning_rate:g} --batch-size {args.batch_size} "
               f"--max-length {args.max_length} --dtype {args.dtype}") + (f" --max-steps {args.max_steps}" if args.max_steps > 0 else "")
    result = {
        "command": command,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                     "trl": trl.__version__, "python": platform.python_version()},
        "train_rows": train_rows,
        "dtype": args.dtype,
        "steps": len(history),
        "planned_steps": made.state.max_steps,
        "train_seconds": round(train_seconds),
        **last_quarter(history),
        **evaluate(made),
        "history": {key: [step.get(key) for step in history] for key in kept if any(key in step for step in history)},
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        stored = json.loads(args.out.read_text()) if args.out.exists() else {}
        stored[args.loss] = result
        args.out.write_text(compact_lists(stored), encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "history"}))


def compact_lists(stored):
    """Indented JSON with each list on one line."""
    def write(value, depth):
        if not isinstance(value, dict):
            return json.dumps(value)
        pad = " " * (depth + 1)
        return "{\n" + ",\n".join(f"{pad}{json.dumps(k)}: {write(v, depth + 1)}" for k, v in value.items()) + "\n" + " " * depth + "}"
    return write(stored, 0) + "\n"


main()
