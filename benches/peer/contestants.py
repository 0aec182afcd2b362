"""Who trains in a race, and how each is started: `align-cli`, TRL as it comes, TRL tuned, and a loop written by hand in torch."""
import argparse
import json
import pathlib
import tempfile

import processes

PEERS = {
    "trl": "TRL as it comes",
    "tuned": "TRL, tuned: logits of the answers alone, a pair at a time, in bf16 a bf16 adapter, on jemalloc",
    "torch": "a torch loop by hand, a pair at a time, on jemalloc",
}
NAMES = ["align", *PEERS]
DTYPES = {"f32": "float32", "bf16": "bfloat16"}


def names(text):
    chosen = text.split(",")
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(NAMES):
        raise argparse.ArgumentTypeError(f"{text!r} is not some of {','.join(NAMES)}, each once")
    return chosen


def add_flags(parser):
    processes.add_model_flags(parser)
    parser.add_argument("--contestants", type=names, default=NAMES, metavar=",".join(NAMES), help="some of these (default: all)")
    parser.add_argument("--adapter", type=pathlib.Path, help="everyone starts from this PEFT adapter; the reference is the base model")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs a step")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--jemalloc", type=pathlib.Path, metavar="PATH", help="libjemalloc.so.2 (default: where it usually is)")
    parser.add_argument("--align-arg", action="append", default=[], metavar="ARG", help="a further argument of `align-cli train`")


def check(args):
    """Checks everything that a run needs later."""
    processes.need_files(args.model, args.data, *([args.adapter / "adapter_config.json"] if args.adapter else []))
    if "align" in args.contestants:
        processes.need_binary(args.binary)
    if set(args.contestants) & {"trl", "tuned"}:
        processes.need_packages(args.python, ["torch", "transformers", "peft", "trl"])
    if "torch" in args.contestants:
        processes.need_packages(args.python, ["torch", "transformers"])
    if set(args.contestants) & {"tuned", "torch"}:
        processes.jemalloc(args.jemalloc)


def train(who, args, precision, steps, warmup):
    """One run: seconds of the timed steps, tokens and losses of all, the largest resident set of the process."""
    run = align if who == "align" else peer
    told = run(who, args, precision, steps, warmup)
    counts = [len(told["step_seconds"]), len(told["tokens"]), len(told["losses"])]
    if counts != [steps, warmup + steps, warmup + steps]:
        processes.fail(f"{who}: {counts[0]} timed steps of {counts[1]} instead of {steps} of {warmup + steps}: "
                       "has the file enough pairs?")
    total = sum(told["step_seconds"])
    return {"pairs_per_second": steps * args.batch_size / total, "tokens_per_second": sum(told["tokens"][warmup:]) / total, **told}


def align(_, args, precision, steps, warmup):
    start = ["--lora-rank", 16, "--lora-alpha", 32, "--target-modules", "all-linear"]
    if args.adapter:
        start = ["--adapter", args.adapter, "--reference", "base"]
    with tempfile.TemporaryDirectory() as folder:
        command = [args.binary, "train", "--model", args.model, "--data", args.data, "--loss", "dpo", *start, "--lora-dropout", 0,
                   "--precision", precision, "--device", "cpu", "--batch-size", args.batch_size, "--max-length", args.max_length,
                   "--allow-drops",
                   "--no-shuffle", "--threads", args.threads, "--max-steps", warmup + steps, "--learning-rate", 1e-5,
                   "--schedule", "constant", "--reference-cache", "off", "--output", folder]
        _, _, peak_bytes = processes.run([*command, *args.align_arg])
        with open(pathlib.Path(folder) / "metrics.jsonl", encoding="utf-8") as lines:
            metrics = [step for step in map(json.loads, lines) if "loss" in step]
    tokens = [step["num_tokens"] - before for step, before in zip(metrics, [0] + [step["num_tokens"] for step in metrics])]
    # the wall time of a step is not in the file: it is the tokens of the step over its speed
    seconds = [count / step["tokens_per_second"] for step, count in zip(metrics, tokens)]
    return {"step_seconds": seconds[warmup:], "tokens": tokens, "losses": [step["loss"] for step in metrics], "peak_bytes": peak_bytes}


def peer(who, args, precision, steps, warmup):
    script = "torch_dpo.py" if who == "torch" else "trl_dpo.py"
    command = [args.python, processes.HERE / script, "--model", args.model, "--data", args.data, "--steps", steps, "--warmup", warmup,
               "--batch-size", args.batch_size, "--max-length", args.max_length, "--dtype", DTYPES[precision],
               "--threads", args.threads]
    if args.adapter:
        command += ["--adapter", args.adapter]
    if who == "tuned":
        # around a float32 base a bf16 adapter would only be less exact
        command += ["--compact-head", "--lora-dtype", DTYPES[precision]]
    tuned = who != "trl"
    if tuned:
        command += ["--micro", 1]
    output, _, peak_bytes = processes.run(command, processes.jemalloc(args.jemalloc) if tuned else None)
    told = json.loads(output.splitlines()[-1])
    if tuned and not told["jemalloc"]:
        processes.fail(f"{who}: jemalloc was not loaded; name another with --jemalloc")
    return {"step_seconds": told["step_seconds"], "tokens": told["tokens"], "losses": told["losses"], "peak_bytes": peak_bytes,
            "peer": told["peer"]}


def same_work(runs):
    """Ends if two contestants did different work: the tokens of every step must be equal, and so the kept rows."""
    (first, told), *others = runs.items()
    for who, other in others:
        if other["tokens"] != told["tokens"]:
            processes.fail(f"not the same work: tokens per step are {told['tokens']} for {first}, {other['tokens']} for {who}")
