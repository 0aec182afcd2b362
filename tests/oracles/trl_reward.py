#!/usr/bin/env python3
"""What TRL's RewardTrainer learns from preference pairs in one epoch: pairs held out from it that it orders as the data does.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python tests/oracles/trl_reward.py --model DIR --train tests/data/pref_train.jsonl --eval tests/data/pref_eval.jsonl \\
        --learning-rate 1e-4 --batch-size 4 --max-length 512 [--seed N] [--out FILE.json]

The truth for `align-cli train --loss rm_bt` with the same options. LoRA of rank 16, alpha 32 on all linear layers of the blocks, the
score head beside it (`modules_to_save`); all arithmetic in float32; AdamW without decay, learning rate falling linearly to zero, no
warm-up, gradients clipped at norm 1. TRL draws the head's first values from the seed (normal, `initializer_range` of config.json); with
`--zero-head` they are 0, as those of `align-cli`. Prints one JSON object and, with `--out`, stores it in that file under `rm_bt-SEED`.
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
parser.add_argument("--train", type=pathlib.Path, required=True)
parser.add_argument("--eval", type=pathlib.Path, required=True)
parser.add_argument("--learning-rate", type=float, default=1e-4)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--max-steps", type=int, default=-1, help="stop early; the schedule still ends at zero")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--zero-head", action="store_true")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out", type=pathlib.Path)
args = parser.parse_args()

oracle.before_imports(args.threads)

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402

oracle.after_imports(args.threads)


def pairs_of(path):
    return Dataset.from_list(oracle.read_rows(path, ("prompt", "chosen", "rejected")))



def main():
    transformers.set_seed(args.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=1, dtype=torch.float32, attn_implementation="sdpa")
    if args.zero_head:
        torch.nn.init.zeros_(model.score.weight)
    config = trl.RewardConfig(
        output_dir=tempfile.mkdtemp(), num_train_epochs=1, max_steps=args.max_steps, learning_rate=args.learning_rate,
        lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, seed=args.seed,
        max_length=args.max_length, bf16=False, use_cpu=True, gradient_checkpointing=False, per_device_eval_batch_size=1,
        per_device_train_batch_size=1, gradient_accumulation_steps=args.batch_size, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, dataloader_pin_memory=False)
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="SEQ_CLS", modules_to_save=["score"],
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    made = trl.RewardTrainer(
        model=model, args=config, train_dataset=pairs_of(args.train), eval_dataset=pairs_of(args.eval),
        processing_class=transformers.AutoTokenizer.from_pretrained(args.model), peft_config=lora)
    start = time.monotonic()
    made.train()
    train_seconds = time.monotonic() - start
    evaluation = made.evaluate()
    steps = [step for step in made.state.log_history if "loss" in step]
    pairs, accuracy = len(made.eval_dataset), evaluation["eval_accuracy"]
    tail = steps[-math.ceil(len(steps) / 4):]
    result = {
        "command": f"tests/oracles/trl_reward.py --model {args.model.name} --train {args.train.name} --eval {args.eval.name} "
                   f"--learning-rate {args.learning_rate:g} --batch-size {args.batch_size} --max-length {args.max_length} "
                   f"--seed {args.seed}" + (" --zero-head" if args.zero_head else ""),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
                     "trl": trl.__version__, "python": platform.python_version()},
        "train_rows": len(made.train_dataset),
        "steps": len(steps),
        "train_seconds": round(train_seconds),
        "first_loss": steps[0]["loss"],
        "train_loss_last_quarter": statistics.mean(step["loss"] for step in tail),
        "train_accuracy_last_quarter": statistics.mean(step["accuracy"] for step in tail),
        "eval_pairs": pairs,
        "eval_pairs_right": round(accuracy * pairs),
        "eval_accuracy": accuracy,
        "eval_standard_error": math.sqrt(accuracy * (1 - accuracy) / pairs),
        "eval_loss": evaluation["eval_loss"],
    }
    if args.out:
        stored = json.loads(args.out.read_text()) if args.out.exists() else {}
        stored[f"rm_bt-{args.seed}" + ("-zero-head" if args.zero_head else "")] = result
        args.out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


main()
