#!/usr/bin/env python3
"""The peer of `align-cli generate`: greedy generation of transformers with a PEFT adapter, one batch. Prints one JSON line.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python benches/peer/torch_generate.py --model DIR --adapter DIR --data PROMPTS.jsonl --new-tokens 128

Every row of `--data` is a prompt of the batch, padded on the left; every answer is forced to `--new-tokens`. `seconds` are the wall
times of `generate`, the pass over the prompts included, each after one that is not counted. `tokens` are the new ids of each
prompt; `gaps` (with `--gaps`) how much likelier each was than the next one, in nats.
"""
import json
import pathlib
import time

import torch_run

parser = torch_run.parser(__doc__)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--adapter", type=pathlib.Path)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the base weights")
parser.add_argument("--new-tokens", type=int, default=128)
parser.add_argument("--repeats", type=int, default=1, help="timed generations")
parser.add_argument("--gaps", action="store_true", help="keep the scores of every step")
args = parser.parse_args()
torch_run.prepare(args.threads)

import torch  # noqa: E402  the settings above must be made first
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(args.threads)


def build():
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    version = f"transformers {transformers.__version__} torch {torch.__version__}"
    if args.adapter:
        import peft

        model, version = peft.PeftModel.from_pretrained(model, args.adapter), f"peft {peft.__version__} {version}"
    return model.eval(), version


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, padding_side="left")
    with open(args.data, encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    inputs = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True)
    model, version = build()
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + args.repeats):
            start = time.perf_counter()
            made = model.generate(**inputs, do_sample=False, min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens,
                                  return_dict_in_generate=True, output_scores=args.gaps)
            seconds.append(time.perf_counter() - start)
    tokens = made.sequences[:, inputs["input_ids"].shape[1]:]
    told = {"peer": version, "dtype": args.dtype, "threads": args.threads, "new_tokens": args.new_tokens, "seconds": seconds[1:],
            "prompt_tokens": inputs["attention_mask"].sum(1).tolist(), "tokens": tokens.tolist(), **torch_run.process()}
    if args.gaps:
        best = torch.stack(made.scores, dim=1).topk(2).values
        told["gaps"] = (best[..., 0] - best[..., 1]).tolist()
    print(json.dumps(told))


main()
