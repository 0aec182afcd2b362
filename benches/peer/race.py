#!/usr/bin/env python3
"""`align-cli train` against TRL on the same pairs, in turns: short runs of each, so that a slow minute of the machine hits both.

    cargo build --release
    python tests/oracles/make_smollm2.py /tmp/smollm2-135m
    python benches/peer/race.py --model /tmp/smollm2-135m --data tests/data/pref_train.jsonl [--rounds 3 --steps 10]

DPO with LoRA of rank 16 on all linear layers in float32, pairs in file order, first epoch, no cache of reference log-probs. Both
run `--warmup` + `--steps` steps on the same pairs; both drop the same rows, which the race checks: the tokens of every step must
be equal. A round's ratio is ours over the peer's in the same round; the reported ones are medians over rounds. Memory is the
largest resident set of each process, mapped weights included. Prints a table on stderr and the result as JSON on stdout.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parents[1]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--binary", type=pathlib.Path, default=REPOSITORY / "target/release/align-cli")
parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch and TRL")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=10, help="timed steps of a run")
parser.add_argument("--warmup", type=int, default=2, help="steps before those")
parser.add_argument("--batch-size", type=int, default=4, help="pairs a step")
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of both")
parser.add_argument("--align-arg", action="append", default=[], metavar="ARG", help="a further argument of `align-cli train`")
args = parser.parse_args()


def run(command):
    """stdout, and the largest resident set in bytes."""
    command = [str(part) for part in command]
    # files, not pipes: nobody reads until the process has ended, and its own resource usage needs wait4
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (output, errors):
            file.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}\nexited with {process.returncode}\n{errors.read()}")
        return output.read(), usage.ru_maxrss * 1024


def ours(folder):
    command = [args.binary, "train", "--model", args.model, "--data", args.data, "--loss", "dpo", "--lora-rank", 16,
               "--lora-alpha", 32, "--target-modules", "all-linear", "--precision", args.precision, "--device", "cpu",
               "--batch-size", args.batch_size, "--max-length", args.max_length, "--no-shuffle", "--threads", args.threads,
               "--max-steps", args.warmup + args.steps, "--learning-rate", 1e-5, "--schedule", "constant", "--output", folder]
    _, peak_bytes = run([*command, *args.align_arg])
    with open(folder / "metrics.jsonl", encoding="utf-8") as lines:
        steps = [step for step in map(json.loads, lines) if "loss" in step]
    tokens = [step["num_tokens"] - before for step, before in zip(steps, [0] + [step["num_tokens"] for step in steps])]
    # the wall time of a step is not in the file: it is the tokens of the step over its speed
    seconds = [count / step["tokens_per_second"] for step, count in zip(steps, tokens)]
    return result(seconds[args.warmup:], tokens[args.warmup:], [step["loss"] for step in steps], peak_bytes)


def peer():
    dtype = {"f32": "float32", "bf16": "bfloat16"}[args.precision]
    output, peak_bytes = run([args.python, HERE / "trl_dpo.py", "--model", args.model, "--data", args.data, "--steps", args.steps,
                              "--warmup", args.warmup, "--batch-size", args.batch_size, "--max-length", args.max_length,
                              "--dtype", dtype, "--threads", args.threads])
    told = json.loads(output.splitlines()[-1])
    return result(told["step_seconds"], told["tokens"], told["losses"], peak_bytes) | {"peer": told["peer"]}


def result(step_seconds, tokens, losses, peak_bytes):
    if len(step_seconds) != args.steps:
        sys.exit(f"{len(step_seconds)} timed steps instead of {args.steps}: has the file enough pairs?")
    total = sum(step_seconds)
    return {"pairs_per_second": args.steps * args.batch_size / total, "tokens_per_second": sum(tokens) / total,
            "peak_bytes": peak_bytes, "step_seconds": step_seconds, "tokens": tokens, "losses": losses}


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine():
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {args.threads} threads"


def main():
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.rounds):
            runs = {}
            # who goes first alternates, lest one always has the warmer cache
            for who in ("align", "trl") if number % 2 == 0 else ("trl", "align"):
                runs[who] = ours(pathlib.Path(scratch) / str(number)) if who == "align" else peer()
            if runs["align"]["tokens"] != runs["trl"]["tokens"]:
                sys.exit(f"not the same work: tokens per step {runs['align']['tokens']} and {runs['trl']['tokens']}")
            rounds.append(runs)
            print(f"round {number + 1}: align {runs['align']['pairs_per_second']:.3f} pairs/s in "
                  f"{runs['align']['peak_bytes'] / 1e9:.2f} GB, trl {runs['trl']['pairs_per_second']:.3f} in "
                  f"{runs['trl']['peak_bytes'] / 1e9:.2f} GB", file=sys.stderr)

    of = lambda who, key: [runs[who][key] for runs in rounds]
    ratio = lambda key: [runs["align"][key] / runs["trl"][key] for runs in rounds]
    commit = subprocess.run(["git", "-C", REPOSITORY, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    summary = {
        "commit": commit, "machine": machine(), "peer": rounds[0]["trl"]["peer"], "model": args.model.name, "data": args.data.name,
        "precision": args.precision, "rounds": args.rounds, "steps": args.steps,
        "align_pairs_per_second": spread(of("align", "pairs_per_second")),
        "trl_pairs_per_second": spread(of("trl", "pairs_per_second")),
        "speed_ratio": spread(ratio("pairs_per_second")),
        "align_peak_bytes": spread(of("align", "peak_bytes")),
        "trl_peak_bytes": spread(of("trl", "peak_bytes")),
        "memory_ratio": spread(ratio("peak_bytes")),
        "runs": rounds,
    }
    speed, memory = summary["speed_ratio"], summary["memory_ratio"]
    print("| commit | machine | precision | align pairs/s | trl pairs/s | faster by (min .. max) | align peak | trl peak | memory |\n"
          "|---|---|---|---|---|---|---|---|---|\n"
          f"| {commit} | {summary['machine']} | {args.precision} | {summary['align_pairs_per_second']['median']:.3f} "
          f"| {summary['trl_pairs_per_second']['median']:.3f} | {speed['median']:.2f}x ({speed['min']:.2f} .. {speed['max']:.2f}) "
          f"| {summary['align_peak_bytes']['median'] / 1e9:.2f} GB | {summary['trl_peak_bytes']['median'] / 1e9:.2f} GB "
          f"| {memory['median']:.2f}x |", file=sys.stderr)
    print(json.dumps(summary))


main()
