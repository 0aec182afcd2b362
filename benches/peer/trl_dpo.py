#!/usr/bin/env python3
"""A peer of `align-cli train`: TRL's DPOTrainer with a PEFT LoRA adapter, as it comes or tuned. Prints one JSON line.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python benches/peer/trl_dpo.py --model DIR --data tests/data/pref_train.jsonl --steps 10

LoRA of rank 16, alpha 32, no dropout, on all linear layers of the blocks, or what `--adapter` is; AdamW, constant learning rate;
pairs in file order, a forward pass padded to its longest sequence; reference log-probs of the base model computed in every step,
as in a first epoch without a cache.

Three flags tune it for a processor: `--compact-head` computes logits of the answers' tokens only, as TRL itself does on GPUs;
`--micro 1` passes one pair at a time, with less padding and smaller activations; `--lora-dtype bfloat16` spares the conversions
around an adapter that PEFT keeps in float32.

`step_seconds` are wall times between the ends of two optimizer steps, so with the making of the batch, after `--warmup` steps;
`tokens` of a step count the prompt once per answer and no padding; `peak_bytes` is the largest resident set of the process.
"""
import json
import tempfile
import time

import torch_run

parser = torch_run.dpo_parser(__doc__)
parser.add_argument("--compact-head", action="store_true", help="logits of the answers' tokens only")
parser.add_argument("--lora-dtype", choices=["float32", "bfloat16"], default="float32", help="of the adapter; PEFT's own: float32")
args = torch_run.checked(parser, parser.parse_args())
torch_run.prepare(args.threads)

import peft  # noqa: E402  the settings above must be made first
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
import trl.trainer.utils  # noqa: E402
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
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.micro,
        gradient_accumulation_steps=args.batch_size // args.micro, max_steps=args.warmup + args.steps,
        learning_rate=args.learning_rate, lr_scheduler_type="constant", max_length=args.max_length, loss_type=["sigmoid"], beta=0.1,
        train_sampling_strategy="sequential", bf16=False, use_cpu=True, gradient_checkpointing=False, dataloader_pin_memory=False,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, seed=0)
    rank, alpha, targets = torch_run.adapter_shape(args.adapter)
    lora = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=targets)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), peft_config=lora,
                             processing_class=transformers.AutoTokenizer.from_pretrained(args.model))
    if args.adapter:
        # a model that already is a PEFT one would take its own starting state as the reference; this keeps the base
        tensors = safetensors.torch.load_file(args.adapter / "adapter_model.safetensors")
        loaded = peft.set_peft_model_state_dict(trainer.model, tensors)
        assert not loaded.unexpected_keys, loaded.unexpected_keys[:3]
    for param in trainer.model.parameters():
        if param.requires_grad:
            param.data = param.data.to(getattr(torch, args.lora_dtype))
    return trainer


def main():
    if args.compact_head:
        # `trl.trainer.utils` asks this in one place alone: whether to pick the positions with a label before the head
        assert hasattr(trl.trainer.utils, "_use_triton"), f"trl {trl.__version__} chooses the head's rows in another way"
        trl.trainer.utils._use_triton = lambda device: True
    trainer, clock = build(), StepClock()
    trainer.remove_callback(transformers.PrinterCallback)
    clock.watch(trainer)
    trainer.train()
    all_steps = args.warmup + args.steps
    tokens, padded = clock.tokens[:all_steps], clock.padded[:all_steps]
    torch_run.report(
        args,
        f"trl {trl.__version__} peft {peft.__version__} transformers {transformers.__version__} torch {torch.__version__}",
        [end - start for start, end in zip(clock.ends, clock.ends[1:])][args.warmup - 1:],
        tokens,
        [step["loss"] for step in trainer.state.log_history if "loss" in step],
        compact_head=args.compact_head, lora_dtype=args.lora_dtype, padding_share=1 - sum(tokens) / sum(padded))


main()
