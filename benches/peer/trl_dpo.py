#!/usr/bin/env python3
"""The peer of `align-cli train`: TRL's DPOTrainer with a PEFT LoRA adapter, as it comes. Prints one JSON line.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python benches/peer/trl_dpo.py --model DIR --data tests/data/pref_train.jsonl --steps 10

LoRA of rank 16, alpha 32, no dropout, on all linear layers of the blocks; AdamW, constant learning rate; pairs in file order,
a batch padded to its longest sequence; reference log-probs computed in every step, as in a first epoch without a cache.

`step_seconds` are wall times between the ends of two optimizer steps, so with the making of the batch, after `--warmup` steps;
`tokens` of a step count the prompt once per answer and no padding; `peak_bytes` is the largest resident set of the process.
"""
import argparse
import json
import os
import pathlib
import resource
import tempfile
import time
import warnings

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--steps", type=int, default=10, help="timed steps")
parser.add_argument("--warmup", type=int, default=2, help="steps before those")
parser.add_argument("--batch-size", type=int, default=4, help="pairs a step")
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--learning-rate", type=float, default=1e-5)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the base weights")
parser.add_argument("--threads", type=int, default=os.cpu_count())
args = parser.parse_args()

os.environ.update(OMP_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1",
                  HF_DATASETS_CACHE=tempfile.mkdtemp(), HF_DATASETS_DISABLE_PROGRESS_BARS="1")
warnings.filterwarnings("ignore")

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(args.threads)


class StepClock(transformers.TrainerCallback):
    def __init__(self):
        self.ends, self.tokens, self.padded = [], [0], [0]

    def watch(self, trainer):
        compute_loss = trainer.compute_loss

        def counted(model, inputs, *rest, **options):
            self.tokens[-1] += int(inputs["attention_mask"].sum())
            self.padded[-1] += inputs["attention_mask"].numel()
            return compute_loss(model, inputs, *rest, **options)

        trainer.compute_loss = counted
        trainer.add_callback(self)

    def on_step_end(self, _args, _state, _control, **_):
        self.ends.append(time.perf_counter())
        self.tokens.append(0)
        self.padded.append(0)


def build():
    with open(args.data, encoding="utf-8") as lines:
        rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in map(json.loads, lines)]
    config = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.batch_size, max_steps=args.warmup + args.steps,
        learning_rate=args.learning_rate, lr_scheduler_type="constant", max_length=args.max_length, loss_type=["sigmoid"], beta=0.1,
        train_sampling_strategy="sequential", bf16=False, use_cpu=True, gradient_checkpointing=False, dataloader_pin_memory=False,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0)
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    return trl.DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), peft_config=lora,
                          processing_class=transformers.AutoTokenizer.from_pretrained(args.model))


def main():
    trainer, clock = build(), StepClock()
    trainer.remove_callback(transformers.PrinterCallback)
    clock.watch(trainer)
    trainer.train()
    step_seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:])][args.warmup - 1:]
    timed = slice(args.warmup, args.warmup + args.steps)
    tokens, padded, total = clock.tokens[timed], clock.padded[timed], sum(step_seconds)
    print(json.dumps({
        "peer": f"trl {trl.__version__} peft {peft.__version__} transformers {transformers.__version__} torch {torch.__version__}",
        "dtype": args.dtype, "threads": args.threads, "batch_size": args.batch_size, "max_length": args.max_length,
        "pairs_per_second": args.steps * args.batch_size / total, "tokens_per_second": sum(tokens) / total,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "padding_share": 1 - sum(tokens) / sum(padded),
        "step_seconds": step_seconds, "tokens": tokens,
        "losses": [step["loss"] for step in trainer.state.log_history if "loss" in step],
    }))


if args.warmup < 1:
    parser.error("--warmup must be at least 1: the end of a step before the timed ones starts the clock")
main()
