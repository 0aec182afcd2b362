#!/usr/bin/env python3
"""`align-cli train` against its peers on the same pairs, in turns: short runs of each, so that a slow minute of the machine hits all.

    cargo build --release
    python tests/oracles/make_smollm2.py /tmp/smollm2-135m
    python benches/peer/race.py --model /tmp/smollm2-135m --data tests/data/pref_train.jsonl --python VENV/bin/python \\
        [--contestants align,trl,tuned,torch] [--precision bf16] [--rounds 3 --steps 10]

DPO with LoRA of rank 16 on all linear layers (or from `--adapter`), pairs in file order, first epoch, no cache of reference
log-probs. The peers are TRL as it comes (`trl`), TRL as fast as flags and allocator make it (`tuned`), and a loop by hand in torch
on the same allocator (`torch`).

All run `--warmup` + `--steps` steps on the same pairs and drop the same rows, which the race checks: the tokens of every step must
be equal. A round's ratio is ours over the peer's in the same round; the reported ones are medians over rounds. Memory is the
largest resident set of each process, mapped weights included. Prints a table on stderr and the result as JSON on stdout.
"""
import argparse
import json
import sys

import contestants
import processes
from processes import spread


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    contestants.add_flags(parser)
    parser.add_argument("--precision", choices=list(contestants.DTYPES), default="f32", help="of all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a run")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those")
    args = parser.parse_args()
    if min(args.rounds, args.steps, args.warmup) < 1:
        parser.error("--rounds, --steps and --warmup must be at least 1")
    return args


def race(args):
    rounds = []
    for number in range(args.rounds):
        runs = {}
        for who in processes.in_turn(args.contestants, number):
            runs[who] = contestants.train(who, args, args.precision, args.steps, args.warmup)
            print(f"round {number + 1}: {who} {runs[who]['pairs_per_second']:.3f} pairs/s in {runs[who]['peak_bytes'] / 1e9:.2f} GB",
                  file=sys.stderr)
        contestants.same_work(runs)
        rounds.append(runs)
    return rounds


def summary(args, rounds):
    """Medians with their spread: of each contestant, and of ours over each peer's in the same round."""
    told = {}
    for who in args.contestants:
        told[who] = {key: spread(runs[who][key] for runs in rounds) for key in ("pairs_per_second", "peak_bytes")}
        if who != "align":
            told[who]["peer"] = rounds[0][who]["peer"]
            if "align" in args.contestants:
                told[who]["speed_ratio"] = spread(runs["align"]["pairs_per_second"] / runs[who]["pairs_per_second"] for runs in rounds)
                told[who]["memory_ratio"] = spread(runs["align"]["peak_bytes"] / runs[who]["peak_bytes"] for runs in rounds)
    return told


def table(told):
    def ratio(of):
        return f"{of['median']:.2f} x ({of['min']:.2f} .. {of['max']:.2f})" if of else ""

    lines = ["| | pairs/s | ours faster by (min .. max) | peak resident memory | ours of it (min .. max) |", "|---|---|---|---|---|"]
    for who, figures in told.items():
        lines.append(f"| {who} | {figures['pairs_per_second']['median']:.3f} | {ratio(figures.get('speed_ratio'))} "
                     f"| {figures['peak_bytes']['median'] / 1e9:.2f} GB | {ratio(figures.get('memory_ratio'))} |")
    return "\n".join(lines)


def main():
    args = arguments()
    contestants.check(args)
    rounds = race(args)
    told = summary(args, rounds)
    setting = {"commit": processes.commit(), "machine": processes.machine(args.threads), "model": args.model.name,
               "data": args.data.name, "adapter": args.adapter.name if args.adapter else None, "precision": args.precision,
               "max_length": args.max_length, "batch_size": args.batch_size, "rounds": args.rounds, "steps": args.steps}
    print(f"commit {setting['commit']}, {setting['machine']}, {args.precision}, {args.rounds} rounds of {args.steps} steps of "
          f"{args.batch_size} pairs, max length {args.max_length}\n{table(told)}", file=sys.stderr)
    print(json.dumps({**setting, "contestants": told, "runs": rounds}))


main()
