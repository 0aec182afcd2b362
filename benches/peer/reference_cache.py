#!/usr/bin/env python3
"""What the reference cache saves: `align-cli train` over two epochs with and without it, in turns.

    cargo build --release
    python tests/oracles/make_smollm2.py /tmp/smollm2-135m
    python benches/peer/reference_cache.py --model /tmp/smollm2-135m --data tests/data/pref_train.jsonl [--rows 8 --rounds 3]

DPO with LoRA of rank 16 on all linear layers, pairs in file order. A round has a run without the cache, one with the cache in memory, one
that starts a cache on the disk, and one that finds it there. All must have the same losses, margins and gradient norms in every
step, bit for bit: exit code 1 if they do not. A time is the sum over the steps of an epoch; a ratio is that of the runs of one round.
Prints a table on stderr and the result as JSON on stdout.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import processes
from processes import spread

CONTESTANTS = ["off", "memory", "cold", "warm"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    processes.add_model_flags(parser)
    parser.add_argument("--rows", type=int, default=8, help="rows of the file that are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--loss", default="dpo")
    args = parser.parse_args()
    if min(args.rows, args.rounds, args.batch_size) < 1:
        parser.error("--rows, --rounds and --batch-size must be at least 1")
    return args


def train(args, rows, cache, output):
    """The steps of a run, without those of its evaluations."""
    processes.run([args.binary, "train", "--model", args.model, "--data", rows, "--loss", args.loss, "--epochs", 2, "--no-shuffle",
                   "--batch-size", args.batch_size, "--max-length", args.max_length, "--allow-drops", "--precision", args.precision,
                   "--threads", args.threads, "--reference-cache", cache, "--output", output])
    with open(output / "metrics.jsonl", encoding="utf-8") as lines:
        return [step for step in map(json.loads, lines) if "loss" in step]


def epochs(steps):
    """Seconds of the two epochs: the wall time of a step is its tokens over its speed."""
    tokens = [step["num_tokens"] - before for step, before in zip(steps, [0] + [step["num_tokens"] for step in steps])]
    seconds = [count / step["tokens_per_second"] for step, count in zip(steps, tokens)]
    half = len(seconds) // 2
    return [sum(seconds[:half]), sum(seconds[half:])]


def numbers(steps):
    return [{key: value for key, value in step.items() if key != "tokens_per_second"} for step in steps]


def main():
    args = arguments()
    processes.need_binary(args.binary)
    processes.need_files(args.model, args.data)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(args.data.read_text(encoding="utf-8").splitlines(keepends=True)[:args.rows]), encoding="utf-8")
        for number in range(args.rounds):
            on_disk = folder / f"cache-{number}"
            caches = {"off": "off", "memory": "memory", "cold": on_disk, "warm": on_disk}
            # the warm run needs the cold one before it; who begins changes with the round
            order = CONTESTANTS if number % 2 == 0 else ["cold", "warm", "memory", "off"]
            runs = {who: train(args, rows, caches[who], folder / f"{who}-{number}") for who in order}
            for who in CONTESTANTS[1:]:
                if numbers(runs[who]) != numbers(runs["off"]):
                    print(f"round {number + 1}: the numbers of `{who}` are not those of `off`", file=sys.stderr)
                    sys.exit(1)
            rounds.append({who: epochs(runs[who]) for who in CONTESTANTS})
            told = ", ".join(f"{who} {first:.2f} + {second:.2f} s" for who, (first, second) in rounds[-1].items())
            print(f"round {number + 1}: {told}", file=sys.stderr)
    ratios = {f"{who}, epoch {epoch + 1}": spread(runs[who][epoch] / runs["off"][epoch] for runs in rounds)
              for who in CONTESTANTS[1:] for epoch in range(2)}
    print(f"the same numbers in all {4 * args.rounds} runs; times as a share of those without the cache:", file=sys.stderr)
    for name, told in ratios.items():
        print(f"  {name:<18} {told['median']:.3f} ({told['min']:.3f} to {told['max']:.3f})", file=sys.stderr)
    print(json.dumps({"rows": args.rows, "precision": args.precision, "loss": args.loss, "rounds": rounds, "ratios": ratios}))


if __name__ == "__main__":
    main()
