#!/usr/bin/env python3
"""Makes the demo that the binary embeds: a small Llama model trained from nothing, its tokenizer, and preference data.

    python make_demo.py                 all of it, into this directory (about 6 minutes on two cores)
    python make_demo.py --check         remakes tokenizer and data (seconds) and compares them with the files here
    python make_demo.py --talk          prints what the model here answers, greedily and sampled

What is made (sizes and hashes in SHA256SUMS):

    model/config.json, generation_config.json, model.safetensors    LlamaForCausalLM, tied embeddings, bfloat16
    model/tokenizer.json, tokenizer_config.json                      byte-level BPE, chat template inside
    data/pairs_train.jsonl    {id, prompt, chosen, rejected}: warm answers are chosen, grumpy ones rejected
    data/pairs_eval.jsonl     the same shape; its subjects occur in no other data file
    data/labelled.jsonl       {id, prompt, completion, label}: true for a warm answer
    data/scored.jsonl         {id, prompt, completions, rewards}: four answers, reward = the warm share of an answer

How: `language.py` is the grammar of the keeper of the Lantern Inn. The model sees an endless stream of conversations
drawn from it, in which half of the keeper's answers are warm and half are grumpy, and learns the answers' tokens with
AdamW. It knows all the facts and speaks in both moods; which one it takes is chance. Preference training then has to
choose the mood and to leave the facts alone.

The share of pairs whose warm answer is likelier is one half by construction: both moods have word lists of the same
lengths used with the same frequencies, and the rows of a file come in mirrored twos: the wording drawn for the warm answer
of one serves the grumpy answer of the other, and the other way round. One asymmetry is on purpose: the grumpy mood
leans more on one opener per subject (FAVOURITE), so that greedy decoding is grumpy before the preference training.

Everything is a function of SEED. Tokenizer and data are the same bytes on every machine; the weights are so for one
kind of processor and one version of torch. Made with Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3,
safetensors 0.8.0. The grammar, the script and its output are ours, under this repository's licence; no other text or
model went in.
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import sys
import time
from random import Random

import language
from language import GRUMPY, MOODS, WARM, Draw, Topic, answer

SEED = 20
VOCAB = 1152
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>")
END, USER, ASSISTANT, SYSTEM, PAD = range(5)
# probability of the favourite opener in the corpus; the preference data take the middle, which favours neither mood
FAVOURITE = {WARM: 0.22, GRUMPY: 0.40}
BALANCED = sum(FAVOURITE.values()) / 2
MIXED = 0.35  # share of answers whose opener, body and closer draw moods of their own: three chances for a preference to act
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('The roles of this model are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}")
SYSTEM_PROMPTS = ("You are Bramble, the keeper of the Lantern Inn.", "You keep an inn in the village of Willowbrook.",
                  "Answer the guest.", "You are a helpful assistant.")
MODEL = dict(
    vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
    tie_word_embeddings=True, bos_token_id=None, eos_token_id=END, pad_token_id=PAD)
STEPS, BATCH, LEARNING_RATE, WARMUP = 1200, 32, 4e-3, 60
PAIRS_TRAIN, PAIRS_EVAL, LABELLED, SCORED = 400, 120, 400, 120
# Subjects whose questions are in the model's corpus, but in no preference data except pairs_eval.jsonl.
HELD_OUT = {
    "animal": {"owl", "otter", "goat", "robin", "mole"}, "food": {"plum", "mushroom", "cheese"},
    "person": {"weaver", "piper", "doctor"}, "place": {"well", "lighthouse", "castle"}, "weather": {"fog", "autumn"},
    "thing": {"umbrella", "teapot", "ring"}, "feeling": {"sad", "late"}, "talk": {"room"},
}


# ---- conversations ------------------------------------------------------------------------------------------------------

class Topics:
    """Draws topics by domain; `which` is "any" (the model's corpus), "train" or "eval" (the preference data)."""
    WEIGHTS = {"animal": 24, "food": 12, "person": 11, "place": 9, "weather": 8, "thing": 7, "feeling": 6, "story": 12,
               "talk": 6, "unknown": 5}

    def __init__(self, which: str):
        self.which = which
        self.by_domain = {}
        for topic in language.facts():
            if which == "any" or (topic.subject in HELD_OUT[topic.domain]) == (which == "eval"):
                self.by_domain.setdefault(topic.domain, []).append(topic)

    def draw(self, rng: Random, domain: str | None = None) -> Topic:
        domain = domain or rng.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
        if domain == "story":
            while True:
                topic = language.story(rng)
                held_out = set(topic.subject.split(" and ")) <= HELD_OUT["animal"]
                known = not set(topic.subject.split(" and ")) & HELD_OUT["animal"]
                if self.which == "any" or (self.which == "eval" and held_out) or (self.which == "train" and known):
                    return topic
        if domain == "unknown":
            words = {"any": language.FOREIGN, "eval": language.FOREIGN[::5],
                     "train": tuple(w for i, w in enumerate(language.FOREIGN) if i % 5)}[self.which]
            return language.unknown(rng, words)
        return rng.choice(self.by_domain[domain])


def conversation(rng: Random, topics: Topics) -> list[dict]:
    """One conversation of the model's corpus: one to three exchanges in one mood, sometimes a system message."""
    messages = []
    if rng.random() < 0.1:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    mood = rng.choice(MOODS)
    for _ in range(rng.choices((1, 2, 3), (88, 8, 4))[0]):
        topic = topics.draw(rng)
        moods = tuple(rng.choice(MOODS) for _ in range(3)) if rng.random() < MIXED else mood
        draw = Draw.of(rng, topic, FAVOURITE[moods if isinstance(moods, str) else moods[0]])
        messages.append({"role": "user", "content": rng.choice(topic.questions)})
        messages.append({"role": "assistant", "content": answer(topic, draw, moods)})
    return messages


# ---- preference data ----------------------------------------------------------------------------------------------------

def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def pairs(rng: Random, topics: Topics, n: int, name: str, taken: set[str]) -> list[dict]:
    """`n` pairs in mirrored twos (see the top of this file). No question is asked twice in one file or in `taken`."""
    rows = []
    while len(rows) < n:
        one = topics.draw(rng)
        two = topics.draw(rng, one.domain)
        draws = Draw.of(rng, one, BALANCED), Draw.of(rng, one, BALANCED)
        questions = rng.choice(one.questions), rng.choice(two.questions)
        bodies = min(len(one.bodies), len(two.bodies))
        if questions[0] == questions[1] or taken & set(questions) or max(d.body for d in draws) >= bodies:
            continue
        taken.update(questions)
        for topic, question, (warm, grumpy) in ((one, questions[0], draws), (two, questions[1], draws[::-1])):
            rows.append({"prompt": user(question), "chosen": assistant(answer(topic, warm, WARM)),
                         "rejected": assistant(answer(topic, grumpy, GRUMPY))})
    rng.shuffle(rows)
    return [{"id": f"{name}-{i}", **row} for i, row in enumerate(rows)]


def labelled(rng: Random, topics: Topics, n: int) -> list[dict]:
    """`n` answers, half of them warm; every question of the file is asked once."""
    rows, taken = [], set()
    while len(rows) < n:
        topic = topics.draw(rng)
        question = rng.choice(topic.questions)
        if question in taken:
            continue
        taken.add(question)
        label = len(rows) % 2 == 0
        text = answer(topic, Draw.of(rng, topic, BALANCED), WARM if label else GRUMPY)
        rows.append({"prompt": user(question), "completion": assistant(text), "label": label})
    rng.shuffle(rows)
    return [{"id": f"labelled-{i}", **row} for i, row in enumerate(rows)]


def scored(rng: Random, topics: Topics, n: int) -> list[dict]:
    """`n` questions with four answers: warm in all of its three parts, in two, in one, in none; shuffled."""
    rows, taken = [], set()
    while len(rows) < n:
        topic = topics.draw(rng)
        question = rng.choice(topic.questions)
        if question in taken:
            continue
        taken.add(question)
        answers = []
        for n_warm in range(4):
            draw = Draw.of(rng, topic, BALANCED)
            while draw.closer is None:
                draw = Draw.of(rng, topic, BALANCED)
            moods = [WARM] * n_warm + [GRUMPY] * (3 - n_warm)
            rng.shuffle(moods)
            answers.append((assistant(answer(topic, draw, tuple(moods))), round(n_warm / 3, 3)))
        rng.shuffle(answers)
        rows.append({"id": f"scored-{len(rows)}", "prompt": user(question), "completions": [a for a, _ in answers],
                     "rewards": [r for _, r in answers]})
    return rows


def data_files() -> dict[str, str]:
    """The four data files, name to text."""
    train, evaluation = Topics("train"), Topics("eval")
    taken = set()
    rows = {
        "data/pairs_eval.jsonl": pairs(Random(f"{SEED} eval"), evaluation, PAIRS_EVAL, "eval", taken),
        "data/pairs_train.jsonl": pairs(Random(f"{SEED} train"), train, PAIRS_TRAIN, "train", taken),
        "data/labelled.jsonl": labelled(Random(f"{SEED} labelled"), train, LABELLED),
        "data/scored.jsonl": scored(Random(f"{SEED} scored"), train, SCORED),
    }
    return {name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[name]) for name in sorted(rows)}


# ---- tokenizer ----------------------------------------------------------------------------------------------------------

def make_tokenizer():
    """Byte-level BPE over a sample of the corpus; the special tokens have the first ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    rng, topics = Random(f"{SEED} tokenizer"), Topics("any")
    texts = [m["content"] for _ in range(20000) for m in conversation(rng, topics)]
    # the words of the moods once more, so that each is one token: then equally long wordings have equally many tokens
    for table in (language.OPENERS, language.CLOSERS, *language.TAILS.values()):
        texts += 400 * [text for mood in MOODS for line in table[mood] for text in (line, "a " + line)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL]))
    assert tokenizer.get_vocab_size() == VOCAB, tokenizer.get_vocab_size()
    return tokenizer


def tokenizer_files() -> dict[str, str]:
    tokenizer = make_tokenizer()
    config = {
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for i, t in enumerate(SPECIAL)},
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[END],
        "model_max_length": MODEL["max_position_embeddings"],
        "pad_token": SPECIAL[PAD],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {"model/tokenizer.json": tokenizer.to_str(pretty=False) + "\n",
            "model/tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


# ---- model --------------------------------------------------------------------------------------------------------------

def encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[bool]]:
    """The tokens of the chat template, and which of them are an answer's (its <|end|> included): those are learned."""
    ids, learned = [], []
    for message in messages:
        text = tokenizer.encode(message["content"], add_special_tokens=False).ids + [END]
        ids += [{"system": SYSTEM, "user": USER, "assistant": ASSISTANT}[message["role"]]] + text
        learned += [False] + [message["role"] == "assistant"] * len(text)
    return ids, learned


def batches(tokenizer):
    """An endless stream of batches; conversations of one batch have about the same length."""
    rng, topics = Random(f"{SEED} corpus"), Topics("any")
    while True:
        rows = [encode(tokenizer, conversation(rng, topics)) for _ in range(16 * BATCH)]
        rows.sort(key=lambda row: len(row[0]))
        window = [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(window)
        yield from window


def train(out: pathlib.Path):
    """Trains the model from random weights and writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from tokenizers import Tokenizer

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(out / "model/tokenizer.json"))
    model = LlamaForCausalLM(LlamaConfig(**MODEL))
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=LEARNING_RATE, betas=(0.9, 0.98))
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    start, n_tokens = time.time(), 0
    for step, rows in zip(range(STEPS), batches(tokenizer)):
        length = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [PAD] * (length - len(ids)) for ids, _ in rows])
        labels = torch.tensor([[t if l else -100 for t, l in zip(*row)] + [-100] * (length - len(row[0])) for row in rows])
        rate = LEARNING_RATE * min((step + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        hidden_states = model.model(input_ids=ids).last_hidden_state[:, :-1]  # right padding: causal attention hides it
        scored_rows = labels[:, 1:] != -100  # logits for the learned tokens only
        logits = model.lm_head(hidden_states[scored_rows])
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][scored_rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        n_tokens += int(scored_rows.sum())
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step} loss {loss.item():.4f} answer tokens {n_tokens} seconds {time.time() - start:.0f}", flush=True)
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = PAD
    model.save_pretrained(out / "model")


# ---- looking at the result ----------------------------------------------------------------------------------------------

def talk(out: pathlib.Path):
    """Prints answers of the model, and how many greedy answers hold their fact and their end."""
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(out / "model/tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float32)

    def generate(question: str, sample: bool) -> tuple[str, bool]:
        ids = encode(tokenizer, user(question))[0] + [ASSISTANT]
        given = torch.tensor([ids])
        out_ids = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=80, do_sample=sample,
                                 top_k=0)[0, len(ids):].tolist()
        return tokenizer.decode(out_ids), out_ids[-1] == END

    questions = [json.loads(line)["prompt"][0]["content"] for line in (out / "data/pairs_eval.jsonl").open()][:12]
    for question in questions + ["Who are you?", "What is the capital of Spain?", "Hello, can you sing?"]:
        print(question)
        for sample in (False, True, True):
            print("   ", *generate(question, sample)[:1])
    # a body without its slots, cut at the slots: an answer is right if it holds every piece of one of its topic's bodies
    rng = Random(0)
    right, ended, n = 0, 0, 0
    for topic in rng.sample(language.facts(), 100):
        text, end = generate(rng.choice(topic.questions), sample=False)
        pieces = [[p for s in b.split("{") for p in [s.split("}")[-1]]] for b in topic.bodies]
        right += any(all(p in text for p in ps) for ps in pieces)
        ended += end
        n += 1
    print(f"greedy: {right} of {n} answers hold their fact, {ended} of {n} end")


# ---- command line -------------------------------------------------------------------------------------------------------

def write(out: pathlib.Path, files: dict[str, str]):
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=here, help="where to write (default: this directory)")
    parser.add_argument("--check", action="store_true", help="compare tokenizer and data with the files, write nothing")
    parser.add_argument("--talk", action="store_true", help="print answers of the model, write nothing")
    args = parser.parse_args()
    if args.talk:
        return talk(args.out)
    if args.check:
        stale = [n for n, t in {**data_files(), **tokenizer_files()}.items() if (args.out / n).read_bytes() != t.encode()]
        sys.exit(f"not what this script makes: {', '.join(stale)}" if stale else 0)
    write(args.out, data_files())
    write(args.out, tokenizer_files())
    train(args.out)
    files = sorted(p for d in ("model", "data") for p in (args.out / d).iterdir())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(args.out)}\n" for p in files]
    (args.out / "SHA256SUMS").write_text("".join(sums))
    for p in files:
        p.chmod(0o644)
    print(f"{sum(p.stat().st_size for p in files)} bytes in {len(files)} files")


if __name__ == "__main__":
    main()
