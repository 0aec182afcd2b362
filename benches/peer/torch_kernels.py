#!/usr/bin/env python3
"""Times torch on the shapes of SmolLM2-135M, for a comparison with `cargo bench`. Prints one JSON line for each case and format.

    pip install torch==2.15.0
    python benches/peer/torch_kernels.py [--kernel gemm attention token_logps] [--case 'gemm.forward m 512'] [--dtype bf16]

- `gemm.forward`: `y = x Wᵀ`, x [m, k], W [n, k], as a linear layer does it; `gemm.dx`: `dx = dy W`, dy [m, n]
- `attention.forward`, `.backward`: causal scaled_dot_product_attention of one sequence, 9 heads over 3 of keys and values, of 64
- `token_logps.forward`, `.backward`: logits, log_softmax and gather at the targets; the gradient of the hidden states

A case has our name, without the formats. In bf16 all operands are bf16, in f32 all are float32. Forward passes are those of
training: autograd keeps what the backward pass needs. Operations are counted as ours, that is, those that the result needs: only
visible pairs of a query and a key; 5 products in the backward pass of attention for 2 in the forward pass; 2 for 1 in `token_logps`,
whose first one computes the logits again (torch has kept them).
"""
import json
import time

import torch_run

parser = torch_run.parser(__doc__)
parser.add_argument("--kernel", nargs="+", choices=["gemm", "attention", "token_logps"], default=["gemm", "attention", "token_logps"])
parser.add_argument("--case", nargs="+", default=[""], help="only cases whose name contains one of these")
parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
parser.add_argument("--list", action="store_true", help="print the names of the cases alone")
parser.add_argument("--seconds", type=float, default=0.5, help="at least so long a case, and at least 5 runs")
args = parser.parse_args()
torch_run.prepare(args.threads)

import torch  # noqa: E402  the settings above must be made first
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(args.threads)

HIDDEN, INTERMEDIATE, KV, VOCAB = 576, 1536, 192, 49152
HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def normal(dtype, *shape):
    # never zeros: on those some processors draw less power and run faster
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def gemm():
    """(name, operations, what makes a run of it in a dtype)."""
    for m in (128, 512, 1024, 2048):
        layers = [(HIDDEN, HIDDEN), (KV, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
        for n, k in layers + ([(VOCAB, HIDDEN)] if m in (128, 1024) else []):
            def forward(dtype, m=m, n=n, k=k):
                x, weight = normal(dtype, m, k), normal(dtype, n, k)
                return lambda: F.linear(x, weight)

            def dx(dtype, m=m, n=n, k=k):
                dy, weight = normal(dtype, m, n), normal(dtype, n, k)
                return lambda: dy @ weight

            for direction, prepare in (("forward", forward), ("dx", dx)):
                yield f"gemm.{direction} m {m} n {n} k {k}", 2 * m * n * k, torch.no_grad, prepare


def attention():
    for length in (512, 1024):
        def operands(dtype, length=length):
            heads = [normal(dtype, 1, count, length, HEAD_DIM) for count in (HEADS, KV_HEADS, KV_HEADS)]
            return [tensor.requires_grad_() for tensor in heads]

        def forward(dtype, operands=operands):
            q, k, v = operands(dtype)
            return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def backward(dtype, operands=operands, length=length):
            q, k, v = operands(dtype)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            d_o = normal(dtype, 1, HEADS, length, HEAD_DIM)
            return lambda: torch.autograd.grad(o, (q, k, v), d_o, retain_graph=True)

        product = 2 * HEAD_DIM * HEADS * length * (length + 1) // 2
        shape = f"1 x {length}, {HEADS}/{KV_HEADS} heads of {HEAD_DIM}"
        yield f"attention.forward {shape}", 2 * product, torch.enable_grad, forward
        yield f"attention.backward {shape}", 5 * product, torch.enable_grad, backward


def token_logps():
    for rows in (512, 1024):
        def head(dtype, rows=rows):
            # logits of roughly unit spread
            hidden_states, lm_head = normal(dtype, rows, HIDDEN).requires_grad_(), normal(dtype, VOCAB, HIDDEN) / HIDDEN ** 0.5
            targets = torch.randint(VOCAB, (rows, 1), generator=torch.Generator().manual_seed(rows))
            return hidden_states, lambda: F.linear(hidden_states, lm_head).log_softmax(-1).gather(-1, targets)

        def forward(dtype, head=head):
            return head(dtype)[1]

        def backward(dtype, head=head, rows=rows):
            hidden_states, logps = head(dtype)
            result, d_logps = logps(), normal(dtype, rows, 1)
            return lambda: torch.autograd.grad(result, hidden_states, d_logps, retain_graph=True)

        product = 2 * rows * HIDDEN * VOCAB
        shape = f"rows {rows} hidden {HIDDEN} vocab {VOCAB}"
        yield f"token_logps.forward {shape}", product, torch.enable_grad, forward
        yield f"token_logps.backward {shape}", 2 * product, torch.enable_grad, backward


def seconds(work):
    """Of each run, after two outside the clock."""
    work(), work()
    taken, end = [], time.perf_counter() + args.seconds
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def main():
    kernels = {"gemm": gemm, "attention": attention, "token_logps": token_logps}
    for kernel in args.kernel:
        for name, operations, gradients, prepare in kernels[kernel]():
            if not any(part in name for part in args.case):
                continue
            if args.list:
                print(name)
                continue
            for dtype in args.dtype:
                with gradients():
                    taken = sorted(seconds(prepare(DTYPES[dtype])))
                median = taken[len(taken) // 2]
                print(json.dumps({"case": name, "dtype": dtype, "median_us": round(median * 1e6, 2),
                                  "gflops": round(operations / median / 1e9, 2)}), flush=True)


main()
