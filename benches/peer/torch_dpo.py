#!/usr/bin/env python3
"""A peer of `align-cli train`: DPO with LoRA written by hand in torch, without TRL, PEFT or accelerate. Prints one JSON line.

    pip install torch==2.15.0 transformers==5.23.0
    python benches/peer/torch_dpo.py --model DIR --data tests/data/pref_train.jsonl --micro 1 --steps 10

What a careful user of torch does: the model of transformers with sdpa attention, the adapter inside each linear layer (float32
weights, products in `--dtype`), logits of the answers' tokens only, cross_entropy on them, and with `--micro 1` one pair a
forward pass, so that little is padding. Data, tokens, batches, loss and optimizer are those of trl_dpo.py.

`step_seconds` are wall times of whole steps after `--warmup` ones, from tokens in memory on; `tokens` of a step count the prompt
once per answer and no padding; `peak_bytes` is the largest resident set of the process.
"""
import json
import time

import torch_run

BETA = 0.1

args = torch_run.dpo_arguments(__doc__)
torch_run.prepare(args.threads)

import safetensors.torch  # noqa: E402  the settings above must be made first
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(args.threads)
torch.manual_seed(0)


class LoraLinear(torch.nn.Module):
    enabled = True  # of all layers at once: off while the reference is computed

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.weight = torch.nn.Parameter(linear.weight.data, requires_grad=False)
        self.lora_a = torch.nn.Parameter(torch.empty(rank, linear.in_features))
        torch.nn.init.kaiming_uniform_(self.lora_a, a=5 ** 0.5)
        self.lora_b = torch.nn.Parameter(torch.zeros(linear.out_features, rank))
        self.scaling = alpha / rank

    def forward(self, x):
        y = F.linear(x, self.weight)
        if LoraLinear.enabled:
            # scaled while it is float32 and small
            y = y + F.linear(F.linear(x, self.lora_a.to(x.dtype)), (self.lora_b * self.scaling).to(x.dtype))
        return y


def read_pairs(tokenizer):
    """(tokens of the prompt, ids of prompt and chosen answer, ids of prompt and rejected answer), as many as the run needs."""
    def ids(turns, generation=False):
        encoded = tokenizer.apply_chat_template(turns, add_generation_prompt=generation, tokenize=True, return_dict=True)
        return encoded["input_ids"]

    pairs, need = [], args.batch_size * (args.warmup + args.steps)
    with open(args.data, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt = ids(row["prompt"], generation=True)
            chosen, rejected = ids(row["prompt"] + row["chosen"]), ids(row["prompt"] + row["rejected"])
            assert chosen[:len(prompt)] == prompt == rejected[:len(prompt)], "the prompt's tokens are the beginning of both"
            if len(prompt) < args.max_length:  # else no token of an answer is left
                pairs.append((len(prompt), chosen[:args.max_length], rejected[:args.max_length]))
            if len(pairs) == need:
                return pairs
    raise SystemExit(f"{args.data}: {len(pairs)} pairs with room for an answer, {need} are needed")


def build():
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    model.requires_grad_(False)
    rank, alpha, targets = torch_run.adapter_shape(args.adapter)
    start = safetensors.torch.load_file(args.adapter / "adapter_model.safetensors") if args.adapter else {}
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if isinstance(module, torch.nn.Linear) and leaf in targets:
            layer = LoraLinear(module, rank, alpha)
            if args.adapter:
                layer.lora_a.data.copy_(start.pop(f"base_model.model.{name}.lora_A.weight"))
                layer.lora_b.data.copy_(start.pop(f"base_model.model.{name}.lora_B.weight"))
            setattr(model.get_submodule(parent), leaf, layer)
    assert not start, f"{args.adapter} has tensors without a layer: {list(start)[:3]}"
    return model.train()


def answer_logps(model, pad_token_id, sequences):
    """Summed log-probs of the answers of (tokens of the prompt, ids of prompt and answer)."""
    longest = max(len(ids) for _, ids in sequences)
    input_ids = torch.full((len(sequences), longest), pad_token_id)
    attention_mask = torch.zeros(len(sequences), longest, dtype=torch.long)
    targets = torch.full((len(sequences), longest), -100)
    for row, (prompt, ids) in enumerate(sequences):
        input_ids[row, :len(ids)] = torch.tensor(ids)
        attention_mask[row, :len(ids)] = 1
        targets[row, prompt:len(ids)] = input_ids[row, prompt:len(ids)]
    # without a mask sdpa takes its faster causal path
    mask = None if bool(attention_mask.all()) else attention_mask
    hidden_states = model.model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    targets = targets[:, 1:]
    scored = targets != -100
    logits = F.linear(hidden_states[scored], model.lm_head.weight).float()
    token_logps = -F.cross_entropy(logits, targets[scored], reduction="none")
    return torch.zeros(len(sequences)).index_add(0, scored.nonzero()[:, 0], token_logps)


def log_ratio_margin(model, pad_token_id, pairs):
    """Log-probs of the chosen answers less those of the rejected ones."""
    chosen = [(prompt, ids) for prompt, ids, _ in pairs]
    rejected = [(prompt, ids) for prompt, _, ids in pairs]
    logps = answer_logps(model, pad_token_id, chosen + rejected)
    return logps[:len(pairs)] - logps[len(pairs):]


def step(model, optimizer, pad_token_id, batch):
    """The loss of an optimizer step."""
    total = 0.0
    for first in range(0, len(batch), args.micro):
        pairs = batch[first:first + args.micro]
        LoraLinear.enabled = False
        with torch.no_grad():
            reference = log_ratio_margin(model, pad_token_id, pairs)
        LoraLinear.enabled = True
        policy = log_ratio_margin(model, pad_token_id, pairs)
        loss = -F.logsigmoid(BETA * (policy - reference)).sum() / len(batch)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    pairs, model = read_pairs(tokenizer), build()
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0, fused=True)
    step_seconds, losses, tokens = [], [], []
    for first in range(0, len(pairs), args.batch_size):
        batch = pairs[first:first + args.batch_size]
        start = time.perf_counter()
        losses.append(step(model, optimizer, tokenizer.pad_token_id, batch))
        step_seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(chosen) + len(rejected) for _, chosen, rejected in batch))
    torch_run.report(args, f"torch {torch.__version__} transformers {transformers.__version__}, a loop by hand",
                     step_seconds[args.warmup:], tokens, losses)


main()
