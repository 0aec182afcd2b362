#!/usr/bin/env python3
"""Our kernels against torch's at the shapes of SmolLM2-135M, in turns: `cargo bench` and torch_kernels.py, round by round.

    python benches/peer/kernels.py --python VENV/bin/python [--kernel gemm attention token_logps] [--rounds 3]

It compares the cases that both have under one name. In f32, ours has float32 activations and products of float32 over bf16 weights
(their stored format), and torch is float32 throughout; in bf16, both sides are bf16 throughout. `forward + backward` adds the medians
of the two, since some of our kernels keep less than torch in the forward pass and compute it again in the backward pass.

A round's ratio is torch's time over ours, above 1 if ours is faster; the reported ones are medians over rounds. Prints a table
on stderr and the result as JSON on stdout.
"""
import argparse
import json
import pathlib
import sys
import tempfile

import processes
from processes import spread

KERNELS = ["gemm", "attention", "token_logps"]
# what our names of the same shape say of the formats
FORMATS = {
    "gemm": {"f32": " bf16", "bf16": " bf16 of bf16, products of bf16"},
    "attention": {"f32": "", "bf16": ", bf16"},
    "token_logps": {"f32": " bf16", "bf16": " bf16 of bf16, products of bf16"},
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
processes.add_flags(parser)
parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=KERNELS)
parser.add_argument("--case", nargs="+", metavar="PART", help="only cases whose name contains one of these")
parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()


def torch_kernels(*more):
    """The lines that torch_kernels.py prints."""
    command = [args.python, processes.HERE / "torch_kernels.py", "--threads", args.threads, "--kernel", *args.kernel]
    output, _, _ = processes.run([*command, *(["--case", *args.case] if args.case else []), *more])
    return output.splitlines()


def ours(case, dtype):
    """Our name of a case of torch's."""
    return case + FORMATS[case.split(".")[0]][dtype]


def torch(_):
    """Microseconds by (case, format)."""
    lines = map(json.loads, torch_kernels("--dtype", *args.dtype))
    return {(line["case"], line["dtype"]): line["median_us"] for line in lines}


def align(cases):
    """Microseconds by our name."""
    # ours has more than the shapes of this comparison
    filters = [ours(case, dtype) for case in cases for dtype in args.dtype]
    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder) / "rows.json"
        processes.run(["cargo", "bench", "--bench", "kernels", "--", *filters, "--threads", args.threads, "--json", table],
                      cwd=processes.REPOSITORY)
        rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    return {f"{row['name']} {row['shape']}": row["median_us"] for row in rows if "median_us" in row}


def both(cases, number):
    """(ours, torch's) microseconds of a round, of every case that both have."""
    told = {who: who(cases) for who in processes.in_turn([align, torch], number)}
    times = {}
    for (case, dtype), torch_us in told[torch].items():
        align_us = told[align].get(ours(case, dtype))
        if align_us is not None:
            times[case, dtype] = (align_us, torch_us)
    for (case, dtype), forward in list(times.items()):
        backward = times.get((case.replace(".forward", ".backward"), dtype))
        if ".forward" in case and backward:
            whole = tuple(sum(pair) for pair in zip(forward, backward))
            times[case.replace(".forward", " forward + backward"), dtype] = whole
    return times


def main():
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    processes.need_packages(args.python, ["torch"])
    cases = torch_kernels("--list")
    if not cases:
        processes.fail("--case leaves no case; `torch_kernels.py --list` prints them")
    rounds = []
    for number in range(args.rounds):
        rounds.append(both(cases, number))
        print(f"round {number + 1}: {len(rounds[-1])} cases", file=sys.stderr)
    if not rounds[0]:
        processes.fail(f"`cargo bench` has none of these cases: {', '.join(cases)}")
    rows = []
    for case, dtype in sorted(rounds[0], key=lambda key: key[1]):
        times = [times[case, dtype] for times in rounds]
        rows.append({"case": case, "dtype": dtype, "align_us": spread(align_us for align_us, _ in times),
                     "torch_us": spread(torch_us for _, torch_us in times),
                     "ratio": spread(torch_us / align_us for align_us, torch_us in times)})
    print(f"commit {processes.commit()}, {processes.machine(args.threads)}, {args.rounds} rounds\n"
          "| case | format | ours, us | torch, us | faster by (min .. max) |\n|---|---|---|---|---|", file=sys.stderr)
    for row in rows:
        ratio = row["ratio"]
        print(f"| {row['case']} | {row['dtype']} | {row['align_us']['median']:.0f} | {row['torch_us']['median']:.0f} "
              f"| {ratio['median']:.2f} x ({ratio['min']:.2f} .. {ratio['max']:.2f}) |", file=sys.stderr)
    print(json.dumps({"commit": processes.commit(), "machine": processes.machine(args.threads), "rounds": args.rounds, "cases": rows}))


main()
