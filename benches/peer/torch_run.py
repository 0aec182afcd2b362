"""What the peers on torch share: their flags, their process's settings, the adapter that they start from, the line that they print.

A script calls `prepare` before it imports torch: the number of threads is read at that import.
"""
import argparse
import json
import os
import pathlib
import resource
import sys
import tempfile
import warnings

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parser(doc):
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=os.cpu_count())
    return made


def dpo_parser(doc):
    """The flags of a peer of `align-cli train`."""
    made = parser(doc)
    made.add_argument("--model", type=pathlib.Path, required=True)
    made.add_argument("--data", type=pathlib.Path, required=True)
    made.add_argument("--adapter", type=pathlib.Path, help="start from this PEFT adapter; the reference stays the base model")
    made.add_argument("--steps", type=int, default=10, help="timed steps")
    made.add_argument("--warmup", type=int, default=2, help="steps before those")
    made.add_argument("--batch-size", type=int, default=4, help="pairs a step")
    made.add_argument("--micro", type=int, help="pairs of one forward pass (default: all of a step)")
    made.add_argument("--max-length", type=int, default=512)
    made.add_argument("--learning-rate", type=float, default=1e-5)
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the base weights")
    return made


def dpo_arguments(doc):
    """Parses them."""
    made = dpo_parser(doc)
    return checked(made, made.parse_args())


def checked(made, args):
    """`args`, with --micro resolved."""
    args.micro = args.micro or args.batch_size
    if args.warmup < 1:
        made.error("--warmup must be at least 1: the end of a step before the timed ones starts the clock")
    if args.batch_size % args.micro != 0:
        made.error("--batch-size must be a multiple of --micro")
    return args


def prepare(threads):
    """Sets the process up. Before the import of torch."""
    os.environ.update(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1",
                      HF_DATASETS_CACHE=tempfile.mkdtemp(), HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    warnings.filterwarnings("ignore")
    # transformers looks for a package `kernels` and would find the file of that name beside this one
    here = pathlib.Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != here]


def adapter_shape(directory):
    """Rank, alpha and target modules of a PEFT adapter, or those of a fresh one."""
    if directory is None:
        return 16, 32, LINEAR_LAYERS
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [key for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_dropout", "lora_bias") if config.get(key)]
    if odd:
        sys.exit(f"{directory}/adapter_config.json: {', '.join(odd)} set; the peers start from plain adapters without dropout alone")
    return config["r"], config["lora_alpha"], config["target_modules"]


def report(args, peer, step_seconds, tokens, losses, **more):
    """Prints the JSON line. `step_seconds` are of the timed steps; `tokens` and `losses` are of all, the warm-up first."""
    total = sum(step_seconds)
    print(json.dumps({
        "peer": peer, "dtype": args.dtype, "threads": args.threads, "batch_size": args.batch_size, "micro": args.micro,
        "max_length": args.max_length, "pairs_per_second": args.steps * args.batch_size / total,
        "tokens_per_second": sum(tokens[args.warmup:]) / total, "step_seconds": step_seconds, "tokens": tokens, "losses": losses,
        **more, **process(),
    }))


def process():
    """The largest resident set of this process in bytes, and whether jemalloc was loaded into it."""
    maps = pathlib.Path("/proc/self/maps")
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "jemalloc": maps.exists() and "jemalloc" in maps.read_text()}
