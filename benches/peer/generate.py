#!/usr/bin/env python3
"""`align-cli generate` against transformers with PEFT: one greedy batch with an adapter, in turns. Exit 1 if the tokens differ in f32.

    cargo build --release
    python benches/peer/generate.py --model DIR --adapter DIR --data tests/data/pref_train.jsonl --python VENV/bin/python

The first `--batch-size` prompts of the data that are at most `--max-prompt-chars` long are continued by `--new-tokens` each: once in
f32, where both must choose the same tokens, then `--rounds` times in bf16 against the clock.

Both clocks run around generation alone: the pass over the prompts, every step and the choice of the tokens, without start-up,
loading and tokenizing. Ours is what `align-cli generate` says on stderr; the peer's runs around its second `generate`, ours around
the first and only one. Tokens/s are all new tokens over that time. `GB/s` counts the base's weights and the adapter's as they are
stored, once for each new token of a sequence: the least that generation must read, to be compared with the speed of memory
(`cargo bench` measures a copy). A round's ratio is ours over the peer's in the same round; the reported one is the median.
Prints a table on stderr and the result as JSON on stdout.
"""
import argparse
import json
import pathlib
import re
import struct
import sys
import tempfile

import contestants
import processes
from processes import spread

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
processes.add_model_flags(parser)
parser.add_argument("--adapter", type=pathlib.Path, required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=8, help="prompts that are continued together")
parser.add_argument("--new-tokens", type=int, default=128)
parser.add_argument("--max-prompt-chars", type=int, default=400)
args = parser.parse_args()


def short_prompts(path):
    """A file of the rows that are continued, so that both read the same ones."""
    chosen = []
    with open(args.data, encoding="utf-8") as lines:
        for line in lines:
            prompt = json.loads(line)["prompt"]
            if isinstance(prompt, str):
                processes.fail(f"{args.data}: prompts must be lists of turns, not text")
            if sum(len(turn["content"]) for turn in prompt) <= args.max_prompt_chars:
                chosen.append(json.dumps({"prompt": prompt}))
            if len(chosen) == args.batch_size:
                path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
                return
    processes.fail(f"{args.data}: {len(chosen)} prompts of at most {args.max_prompt_chars} characters instead of {args.batch_size}")


def align(prompts, precision, _gaps):
    command = [args.binary, "generate", "--model", args.model, "--adapter", args.adapter, "--data", prompts, "--batch-size",
               args.batch_size, "--min-new-tokens", args.new_tokens, "--max-new-tokens", args.new_tokens, "--precision", precision,
               "--device", "cpu", "--threads", args.threads, "--json"]
    output, errors, peak_bytes = processes.run(command)
    said = re.search(r"(\d+) new tokens in .* s: ([\d.]+) tokens/s$", errors.strip())
    if said is None:
        processes.fail(f"{args.binary} does not say how fast it was:\n{errors}")
    rows = [json.loads(line) for line in output.splitlines()]
    return {"tokens_per_second": float(said[2]), "peak_bytes": peak_bytes, "tokens": [row["tokens"] for row in rows],
            "prompt_tokens": [row["prompt_tokens"] for row in rows]}


def transformers(prompts, precision, gaps):
    command = [args.python, processes.HERE / "torch_generate.py", "--model", args.model, "--adapter", args.adapter, "--data", prompts,
               "--dtype", contestants.DTYPES[precision], "--new-tokens", args.new_tokens, "--threads", args.threads]
    output, _, peak_bytes = processes.run([*command, "--gaps"] if gaps else command)
    told = json.loads(output.splitlines()[-1])
    new_tokens = sum(len(tokens) for tokens in told["tokens"])
    return {**told, "tokens_per_second": new_tokens / told["seconds"][0], "peak_bytes": peak_bytes}


WHO = {"align": align, "transformers": transformers}


def run(who, prompts, precision, gaps=False):
    told = WHO[who](prompts, precision, gaps)
    lengths = [len(tokens) for tokens in told["tokens"]]
    if lengths != [args.new_tokens] * args.batch_size:
        processes.fail(f"{who}: new tokens are {lengths} instead of {args.new_tokens} for each of {args.batch_size} prompts")
    return told


def same_prompts(runs):
    if runs["align"]["prompt_tokens"] != runs["transformers"]["prompt_tokens"]:
        processes.fail(f"not the same work: tokens of the prompts are {runs['align']['prompt_tokens']} for align, "
                       f"{runs['transformers']['prompt_tokens']} for transformers")


def differences(prompts):
    """Where the f32 tokens differ, one line for each prompt."""
    runs = {who: run(who, prompts, "f32", gaps=True) for who in WHO}
    same_prompts(runs)
    found = []
    for row, (ours, theirs) in enumerate(zip(runs["align"]["tokens"], runs["transformers"]["tokens"])):
        place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
        if place is not None:
            gap = runs["transformers"]["gaps"][row][place]
            found.append(f"prompt {row}, new token {place}: {ours[place]}, but {theirs[place]} of transformers, "
                         f"{gap:.1e} nats above its second choice")
    return found


def stored_bytes():
    """Of the base and the adapter, by the files' headers. An embedding that is not the head's is looked up, not read whole."""
    sizes = {}
    for path in [*sorted(args.model.glob("*.safetensors")), args.adapter / "adapter_model.safetensors"]:
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        header.pop("__metadata__", None)
        sizes |= {name: tensor["data_offsets"][1] - tensor["data_offsets"][0] for name, tensor in header.items()}
    if "lm_head.weight" in sizes:
        sizes.pop("model.embed_tokens.weight", None)
    return sum(sizes.values())


def main():
    if min(args.rounds, args.batch_size, args.new_tokens) < 1:
        parser.error("--rounds, --batch-size and --new-tokens must be at least 1")
    processes.need_files(args.model, args.data, args.adapter / "adapter_model.safetensors")
    processes.need_binary(args.binary)
    processes.need_packages(args.python, ["torch", "transformers", "peft"])
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        prompts = pathlib.Path(folder) / "prompts.jsonl"
        short_prompts(prompts)
        different = differences(prompts)
        print("FAILED: in f32 the tokens differ\n" + "\n".join(different) if different else "holds: in f32 the tokens are the same",
              file=sys.stderr)
        for number in range(args.rounds):
            runs = {who: run(who, prompts, "bf16") for who in processes.in_turn(list(WHO), number)}
            same_prompts(runs)
            print(f"round {number + 1}: " + ", ".join(f"{who} {runs[who]['tokens_per_second']:.1f} tokens/s" for who in WHO),
                  file=sys.stderr)
            rounds.append(runs)

    bytes_per_pass = stored_bytes()
    told = {who: {key: spread(runs[who][key] for runs in rounds) for key in ("tokens_per_second", "peak_bytes")} for who in WHO}
    for of in told.values():
        # one pass over the weights makes a token of every sequence
        of["weight_bytes_per_second"] = of["tokens_per_second"]["median"] / args.batch_size * bytes_per_pass
    ratio = {key: spread(runs["align"][key] / runs["transformers"][key] for runs in rounds)
             for key in ("tokens_per_second", "peak_bytes")}
    speed = ratio["tokens_per_second"]
    print(f"commit {processes.commit()}, {processes.machine(args.threads)}, bf16, {args.batch_size} prompts of "
          f"{sum(rounds[0]['align']['prompt_tokens'])} tokens together, {args.new_tokens} new tokens each, {args.rounds} rounds; "
          f"{bytes_per_pass / 1e6:.0f} MB of weights\n| | tokens/s | weights, GB/s | peak resident memory |\n|---|---|---|---|",
          file=sys.stderr)
    for who, of in told.items():
        print(f"| {who} | {of['tokens_per_second']['median']:.1f} | {of['weight_bytes_per_second'] / 1e9:.2f} "
              f"| {of['peak_bytes']['median'] / 1e9:.2f} GB |", file=sys.stderr)
    print(f"| ours over theirs (min .. max) | {speed['median']:.2f} x ({speed['min']:.2f} .. {speed['max']:.2f}) | "
          f"| {ratio['peak_bytes']['median']:.2f} x |", file=sys.stderr)
    for runs in rounds:
        for of in runs.values():
            del of["tokens"]  # bf16 ones are judged by nobody
    print(json.dumps({"commit": processes.commit(), "machine": processes.machine(args.threads), "model": args.model.name,
                      "peer": rounds[0]["transformers"]["peer"], "new_tokens": args.new_tokens, "batch_size": args.batch_size,
                      "weight_bytes": bytes_per_pass, "differences_in_f32": different, "medians": told, "ratios": ratio,
                      "runs": rounds}))
    sys.exit(1 if different else 0)


main()
