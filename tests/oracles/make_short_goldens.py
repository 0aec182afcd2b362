#!/usr/bin/env python3
"""Goldens of at most 64 tokens and two training steps, for a device on which the others take too long.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0
    python tests/oracles/make_short_goldens.py [--goldens tests/goldens] [--only MODEL,...]

Writes `GOLDENS/short/` from the tiny models, their adapters and their hyper-parameters, which are in GOLDENS. About three minutes.
TRL's DPOTrainer and KTOTrainer compute losses, gradients and steps in float32 with eager attention and deterministic algorithms,
batches padded on the right. Log-probs are those of transformers and PEFT, each sequence alone and unpadded.
`tests/goldens/README.md` says what the files hold.
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import oracle

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--goldens", type=pathlib.Path, default=pathlib.Path(__file__).parents[1] / "goldens")
parser.add_argument("--only", help="comma-separated names of models; default: all tiny ones")
parser.add_argument("--threads", type=int, default=1, help="the models are too small for more")
args = parser.parse_args()

oracle.before_imports(args.threads)

import peft  # noqa: E402  the environment above must be set first
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from alone import policy_and_reference  # noqa: E402
from datasets import Dataset  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

oracle.after_imports(args.threads)
torch.use_deterministic_algorithms(True)

MAX_LENGTH = 64
STEPS = 2
BATCH = 2
SAMPLES = 8  # entries of a gradient that are stored
VERSIONS = {module.__name__: module.__version__ for module in (torch, transformers, peft, trl)}

# both answers of the first pair are cut at 64 tokens with every tokenizer, no other answer is; every sequence is longer than the
# short positions of tiny-phi3, those of KTO with another row's answer too
PAIRS = [
    {"id": "bird",
     "prompt": "The wind had been loud all night, and in the morning a small bird sat on the stones. Which bird was it?",
     "chosen": " It was a robin, and it sang until noon.", "rejected": " It was no bird at all, I think it was a stone."},
    {"id": "ice", "prompt": "Is the ice on a lake cold?", "chosen": " Yes: it is frozen.", "rejected": " No."},
    {"id": "tea", "prompt": "How is black tea made?", "chosen": " Boil water.", "rejected": " I never had any."},
    {"id": "sum", "prompt": "What is 13 + 4 - 5?", "chosen": " 12", "rejected": " It may be 5."},
]
KTO_ROWS = [{"id": pair["id"], "prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair, side in zip(PAIRS, ("chosen", "rejected", "chosen", "rejected"))]

# the names of `losses.json`, each with its options of DPOConfig; label smoothing and tau are those of `meta.json`
LOSSES = {loss: {"loss_type": [loss]} for loss in (
    "sigmoid", "ipo", "exo_pair", "hinge", "sppo_hard", "robust", "nca_pair", "bco_pair", "aot", "aot_unpaired", "apo_zero",
    "apo_down", "discopop", "sigmoid_norm", "sft")} | {
    "sigmoid f_divergence=forward_kl": {"f_divergence_type": "forward_kl"},
    "sigmoid f_divergence=js_divergence": {"f_divergence_type": "js_divergence"},
    "sigmoid f_divergence=alpha_divergence coef=0.5": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    "sigmoid ld_alpha=0.5": {"ld_alpha": 0.5},
}


class Golden:
    """A tiny model with its adapter and hyper-parameters."""

    def __init__(self, name):
        self.name = name
        self.folder = args.goldens / name
        self.adapter = load_file(self.folder / "adapter/adapter_model.safetensors")
        # tokenizer.json as it is: AutoTokenizer may rebuild parts of it
        self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(self.folder / "model")
        self.meta = json.loads((self.folder / "meta.json").read_text()) | {"max_length": MAX_LENGTH, "versions": VERSIONS}
        self.meta["trajectory"] |= {"steps": STEPS, "batch_pairs": BATCH, "kto_batch_examples": BATCH,
                                    "start": f"../../{name}/adapter/"}

    def base(self, attention="eager"):
        return transformers.AutoModelForCausalLM.from_pretrained(self.folder / "model", dtype=torch.float32,
                                                                 attn_implementation=attention)

    def other_kernel(self):
        """Another attention kernel, which rounds otherwise. Gemma 2 has none, because it caps the scores."""
        return None if self.name == "tiny-gemma2" else "sdpa"

    def short_positions(self):
        """How long a sequence may be to get the short factors of longrope. transformers decides for a whole padded batch, and so no
        sequence may get them."""
        config = json.loads((self.folder / "model/config.json").read_text())
        return config.get("original_max_position_embeddings", 0)

    def adapted(self, attention="eager"):
        return peft.PeftModel.from_pretrained(self.base(attention), self.folder / "adapter").eval()

    def trainer(self, rows, batch, learning_rate=0.0, attention="eager", **options):
        """TRL's trainer of pairs or, with `rows` of KTO, of labelled answers. It starts from the adapter."""
        of, labelled = self.meta["trajectory"], "label" in rows[0]
        common = dict(
            output_dir=tempfile.mkdtemp(), max_length=MAX_LENGTH, beta=self.meta["beta"], per_device_train_batch_size=batch,
            max_steps=STEPS, learning_rate=learning_rate, lr_scheduler_type=of["schedule"], warmup_steps=0,
            optim="adamw_torch", adam_beta1=of["betas"][0], adam_beta2=of["betas"][1], adam_epsilon=of["eps"],
            weight_decay=of["weight_decay"], max_grad_norm=of["max_grad_norm"], train_sampling_strategy="sequential",
            gradient_checkpointing=False, bf16=False, use_cpu=True, seed=0, logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, dataloader_pin_memory=False)
        if labelled:
            weights = {key: self.meta[f"kto_{key}"] for key in ("desirable_weight", "undesirable_weight")}
            make, config = trl.KTOTrainer, trl.KTOConfig(**common, **weights, **options)
        else:
            make, config = trl.DPOTrainer, trl.DPOConfig(**common, **options)
        lora = peft.LoraConfig.from_pretrained(self.folder / "adapter")
        lora.inference_mode = False
        columns = [{key: value for key, value in row.items() if key != "id"} for row in rows]
        made = make(model=self.base(attention), args=config, train_dataset=Dataset.from_list(columns),
                    processing_class=self.tokenizer, peft_config=lora)
        made.remove_callback(transformers.PrinterCallback)
        assert len(made.train_dataset) == len(rows), "TRL dropped a row"
        unknown = peft.set_peft_model_state_dict(made.model, self.adapter).unexpected_keys
        trained = adapter_parameters(made.model)
        assert not unknown and trained.keys() == self.adapter.keys()
        assert all(torch.equal(trained[key].data, value) for key, value in self.adapter.items())
        return made

    def options(self, loss):
        """The options of DPOConfig for a loss of `losses.json`."""
        smoothing = self.meta.get(f"{loss}_label_smoothing")
        return LOSSES[loss] | ({} if smoothing is None else {"label_smoothing": smoothing}) | (
            {"discopop_tau": self.meta["discopop_tau"]} if loss == "discopop" else {})

    def trainer_of(self, loss, batch, **more):
        return self.trainer(KTO_ROWS, batch, **more) if loss == "kto" else self.trainer(PAIRS, batch, **self.options(loss), **more)


def adapter_parameters(model):
    """By their names in the adapter's file."""
    return {name.replace(".default", ""): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def first_batch(trainer, rows):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])


def sequences(batch, prefix=""):
    """(ids after truncation, tokens of the prompt) of each sequence of a batch."""
    ids, is_token, is_scored = (batch[prefix + key] for key in ("input_ids", "attention_mask", "completion_mask"))
    for row in range(len(ids)):
        length = int(is_token[row].sum())
        yield ids[row, :length], length - int(is_scored[row].sum())


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path, head, name, body, brackets):
    """{head..., name: what `body` holds, one a line}"""
    lines = [f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
    text = "{\n" + "".join(lines) + f' "{name}": {brackets[0]}\n' + ",\n".join(f"  {line}" for line in body)
    path.write_text(text + f"\n {brackets[1]}\n}}\n", encoding="utf-8")


def write_items(path, head, items):
    write_lines(path, head, "items", (json.dumps(item, ensure_ascii=False) for item in items), "[]")


def write_logps(golden, folder):
    batch = first_batch(golden.trainer(PAIRS, len(PAIRS)), PAIRS)
    adapted = golden.adapted()
    otherwise = golden.adapted(golden.other_kernel()) if golden.other_kernel() else golden.adapted().double()
    found = list(sequences(batch))
    items, noise = [], 0.0
    for i, pair in enumerate(PAIRS):
        # the collator puts all chosen answers first
        for side, (ids, prompt) in (("chosen", found[i]), ("rejected", found[len(PAIRS) + i])):
            policy, reference = policy_and_reference(adapted, ids, prompt)
            again = policy_and_reference(otherwise, ids, prompt)
            noise = max(noise, *(abs(float(a.sum() - b.sum())) for a, b in zip((policy, reference), again)))
            items.append({
                "id": pair["id"], "side": side, "total_tokens": len(ids), "completion_tokens": len(policy),
                "policy": float(policy.sum()), "reference": float(reference.sum()),
                "policy_per_token": policy.tolist(), "reference_per_token": reference.tolist()})
    lengths = [item["total_tokens"] for item in items]
    assert [length == MAX_LENGTH for length in lengths] == [True] * 2 + [False] * 6, "which answers are cut"
    assert min(lengths) > golden.short_positions()
    write_items(folder / "logps_plain.json", {"noise_floor_max_abs": noise}, items)
    return items, noise


def write_losses(golden, folder, logps):
    losses = {}
    for loss in LOSSES:
        trainer = golden.trainer_of(loss, len(PAIRS))
        trainer.model.eval()
        with torch.no_grad():
            losses[loss] = float(trainer.compute_loss(trainer.model, first_batch(trainer, PAIRS)))
    rewards = {side: [golden.meta["beta"] * (item["policy"] - item["reference"]) for item in logps if item["side"] == side]
               for side in ("chosen", "rejected")}
    write_json(folder / "losses.json", {"loss": losses, **{f"rewards_{side}": values for side, values in rewards.items()}})
    return losses


def write_gradients(golden, folder, loss, rows):
    trainer = golden.trainer_of(loss, len(rows))
    trainer.model.train()
    value = trainer.compute_loss(trainer.model, first_batch(trainer, rows))
    value.backward()
    tensors, squares = {}, 0.0
    for name, parameter in sorted(adapter_parameters(trainer.model).items()):
        gradient = parameter.grad.detach()
        index = torch.randint(gradient.numel(), (SAMPLES,), generator=torch.Generator().manual_seed(7)).tolist()
        squares += float(gradient.double().square().sum())
        tensors[name] = {
            "shape": list(gradient.shape), "l2": float(gradient.double().norm()), "max_abs": float(gradient.abs().max()),
            "index": index, "value": gradient.flatten()[index].tolist()}
    body = (f"{json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in tensors.items())
    write_lines(folder / f"grads_{loss}.json", {"loss": float(value), "global_l2": squares ** 0.5}, "tensors", body, "{}")
    return float(value)


def write_kto(golden, folder):
    trainer = golden.trainer(KTO_ROWS, len(KTO_ROWS))
    batch = first_batch(trainer, KTO_ROWS)
    trainer.model.eval()
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    kl = trainer._metrics["eval"]["kl"][-1]
    adapted = golden.adapted()
    items, before_clamp = [], 0.0
    for i, (row, own, other) in enumerate(zip(KTO_ROWS, sequences(batch), sequences(batch, "KL_"))):
        assert min(len(own[0]), len(other[0])) > golden.short_positions()
        numbers = {key: float(logps.sum()) for suffix, sequence in (("", own), ("_KL", other)) for key, logps in zip(
            (f"policy{suffix}", f"reference{suffix}"), policy_and_reference(adapted, *sequence))}
        before_clamp += (numbers["policy_KL"] - numbers["reference_KL"]) / len(KTO_ROWS)
        ids = {key: trainer.train_dataset[i][key] for key in ("prompt_ids", "completion_ids", "KL_completion_ids")}
        items.append({"id": row["id"], "label": row["label"], **ids, **numbers})
    assert abs(max(before_clamp, 0.0) - kl) < 1e-3, (before_clamp, kl)
    write_items(folder / "kto.json", {"loss": loss, "kl": kl, "kl_before_clamp": before_clamp}, items)
    return loss, kl


def steps(golden, loss, attention):
    """The numbers of each training step, by name: before the update of that step."""
    trainer = golden.trainer_of(loss, BATCH, learning_rate=golden.meta["trajectory"]["lr"], attention=attention)
    losses, compute_loss = [], trainer.compute_loss

    def compute_and_keep(*arguments, **options):
        value = compute_loss(*arguments, **options)
        losses.append(float(value))
        return value

    trainer.compute_loss = compute_and_keep
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(logged) == len(losses) == STEPS
    is_kept = lambda key: key.startswith(("rewards/", "logps/")) or key in ("kl", "grad_norm")
    keys = sorted({key for entry in logged for key in entry if is_kept(key)})
    final = {name: float(parameter.detach().double().norm())
             for name, parameter in sorted(adapter_parameters(trainer.model).items())}
    return {key: [entry.get(key) for entry in logged] for key in keys} | {"loss": losses, "final_adapter_l2": final}


def write_trajectory(golden, folder, loss):
    trajectory = steps(golden, loss, "eager")
    if golden.other_kernel():
        other = steps(golden, loss, golden.other_kernel())
        trajectory |= {f"{key}_other_kernel": other[key] for key in ("loss", "grad_norm")}
    head = {key: value for key, value in sorted(trajectory.items()) if key != "final_adapter_l2"}
    body = (f"{json.dumps(name)}: {norm!r}" for name, norm in trajectory["final_adapter_l2"].items())
    write_lines(folder / f"trajectory_{loss}.json", head, "final_adapter_l2", body, "{}")
    return trajectory["loss"]


def write(name):
    golden = Golden(name)
    folder = args.goldens / "short" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "meta.json", golden.meta)
    logps, noise = write_logps(golden, folder)
    losses = write_losses(golden, folder, logps)
    kto, kl = write_kto(golden, folder)
    losses["kto"] = kto
    for loss, rows in (("sigmoid", PAIRS), ("exo_pair", PAIRS), ("kto", KTO_ROWS)):
        got, expected = write_gradients(golden, folder, loss, rows), losses[loss]
        assert abs(got - expected) <= 1e-5 * max(1.0, abs(expected)), (loss, got, expected)
    trajectories = {loss: write_trajectory(golden, folder, loss) for loss in ("sigmoid", "exo_pair", "ipo", "kto")}
    lengths = [item["total_tokens"] for item in logps]
    print(f"{name}: {len(lengths)} sequences of {min(lengths)} to {max(lengths)} tokens, noise {noise:.1e} nats, "
          f"kto {kto:.4f} kl {kl:.4f}, losses of the steps "
          + ", ".join(f"{loss} {values[0]:.5f} {values[1]:.5f}" for loss, values in trajectories.items()), flush=True)


def main():
    names = args.only.split(",") if args.only else sorted(folder.name for folder in args.goldens.glob("tiny-*"))
    (args.goldens / "short").mkdir(exist_ok=True)
    for file, rows in (("pairs.jsonl", PAIRS), ("kto.jsonl", KTO_ROWS)):
        (args.goldens / "short" / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in names:
        write(name)


main()
