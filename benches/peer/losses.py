#!/usr/bin/env python3
"""Are our losses as exact as the peers'? From one and the same adapter, each in f32 and in bf16. Exit 1 if not.

    align-cli train --model DIR --data tests/data/pref_train.jsonl --learning-rate 1e-4 --max-steps 30 --output runs/start
    python benches/peer/losses.py --model DIR --data tests/data/pref_train.jsonl --adapter runs/start --python VENV/bin/python

A fresh adapter would not do: with it the first loss is ln 2 in every format. Two lines must hold:

1. Over the steps, the median distance of our bf16 losses from our f32 ones is at most that of the nearer peer's from its own.
2. Every f32 loss of ours is within 1e-4 of each peer's.

Prints a table and the two lines on stderr, and all losses as JSON on stdout.
"""
import argparse
import json
import statistics
import sys

import contestants
import processes

AGREEMENT = 1e-4

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
contestants.add_flags(parser)
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args()


def distances(some, others):
    return [abs(a - b) for a, b in zip(some, others, strict=True)]


def main():
    if "align" not in args.contestants or len(args.contestants) < 2:
        parser.error("--contestants must hold align and a peer")
    if args.adapter is None:
        parser.error("--adapter is needed: with a fresh one the first loss is ln 2 in every format")
    if args.steps < 2:
        parser.error("--steps must be at least 2")
    contestants.check(args)
    runs = {precision: {} for precision in contestants.DTYPES}
    for precision, of in runs.items():
        for who in args.contestants:
            of[who] = contestants.train(who, args, precision, args.steps - 1, 1)
            print(f"{who} {precision}: {' '.join(f'{loss:.5f}' for loss in of[who]['losses'])}", file=sys.stderr)
        contestants.same_work(of)

    exact, rounded = ({who: run["losses"] for who, run in runs[precision].items()} for precision in ("f32", "bf16"))
    from_f32 = {who: distances(rounded[who], exact[who]) for who in args.contestants}
    from_ours = {who: max(distances(exact[who], exact["align"])) for who in args.contestants if who != "align"}
    medians = {who: statistics.median(of) for who, of in from_f32.items()}
    print("| | bf16 from f32, median | largest | f32 from ours, largest |\n|---|---|---|---|", file=sys.stderr)
    for who in args.contestants:
        ours = f"{from_ours[who]:.1e}" if who in from_ours else ""
        print(f"| {who} | {medians[who]:.5f} | {max(from_f32[who]):.5f} | {ours} |", file=sys.stderr)

    nearer = min(from_ours, key=medians.get)
    lines = {
        f"bf16: ours {medians['align']:.5f} from f32, the nearer peer ({nearer}) {medians[nearer]:.5f}":
            medians["align"] <= medians[nearer],
        f"f32: {max(from_ours.values()):.1e} from the peers at most, {AGREEMENT:.0e} is allowed": max(from_ours.values()) <= AGREEMENT,
    }
    for line, holds in lines.items():
        print(f"{'holds' if holds else 'FAILED'}: {line}", file=sys.stderr)
    print(json.dumps({"commit": processes.commit(), "machine": processes.machine(args.threads), "model": args.model.name,
                      "data": args.data.name, "steps": args.steps, "median_from_f32": medians, "f32_from_ours": from_ours,
                      "lines": lines, "losses": {"f32": exact, "bf16": rounded}}))
    sys.exit(0 if all(lines.values()) else 1)


main()
