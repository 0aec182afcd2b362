"""Rows in the shapes that data sets have, and the token ids of prompt and answers.

    python tests/oracles/make_shape_goldens.py

writes tests/goldens/shapes/<name>.jsonl, the rows as a data set has them, and expected.json: for each file the flags, and for
each model the ids of every row, of the same row written out by hand: texts as TRL 1.16 tokenises them (prompt; prompt + answer
+ EOS), conversations by the model's own `apply_chat_template`; the prompt is what all of these begin with.
"""

import json
from pathlib import Path

from transformers import AutoTokenizer

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
MODELS = ["tiny-qwen2", "tiny-llama31"]  # the second has a BOS token


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def sharegpt(turn):
    return {"from": {"user": "human", "assistant": "gpt"}.get(turn["role"], turn["role"]), "value": turn["content"]}


HI, YES, NO = "Is it raining?", " Yes, since noon.", " No, it is dry."
talk = [user("Name a river."), assistant("The Elbe."), user("And one in France?")]
chosen, rejected = [assistant("The Loire.")], [assistant("Paris.")]

# name: (flags, [(row of the file, prompt, answers)])
FILES = {
    "instruction-input": ([], [
        ({"instruction": "Translate to French.", "input": "rain", "chosen": " pluie", "rejected": " soleil"}, "Translate to French.\nrain", [" pluie", " soleil"]),
        ({"instruction": HI, "input": "", "chosen": YES, "rejected": NO}, HI, [YES, NO]),
    ]),
    "question-system": ([], [
        ({"system": "Be brief.", "question": HI, "chosen": YES, "rejected": NO}, f"Be brief.\n\n{HI}", [YES, NO]),
        ({"system": "", "question": HI, "chosen": YES, "rejected": NO}, HI, [YES, NO]),
    ]),
    "question-system-chat": (["--chat", "--system", "Be kind."], [
        ({"system": "Be brief.", "question": HI, "chosen": YES, "rejected": NO}, [system("Be brief."), user(HI)], [[assistant(YES)], [assistant(NO)]]),
        ({"system": None, "question": HI, "chosen": YES, "rejected": NO}, [system("Be kind."), user(HI)], [[assistant(YES)], [assistant(NO)]]),
    ]),
    "conversations-ranking": ([], [
        ({"conversations": [sharegpt(turn) for turn in talk], "chosen": sharegpt(chosen[0]), "rejected": sharegpt(rejected[0])}, talk, [chosen, rejected]),
        ({"conversations": [sharegpt(turn) for turn in talk], "chosen": [sharegpt(chosen[0])], "rejected": [sharegpt(rejected[0])], "system": "Be brief."}, [system("Be brief."), *talk], [chosen, rejected]),
    ]),
    "rejected-response": ([], [
        ({"messages": talk + chosen, "rejected_response": "Paris."}, talk, [chosen, rejected]),
        ({"messages": [system("Be brief."), *talk, *chosen], "rejected_response": rejected[0], "system": "not this"}, [system("Be brief."), *talk], [chosen, rejected]),
    ]),
    "messages-label": ([], [
        ({"messages": talk + chosen, "label": True}, talk, [chosen]),
        ({"messages": talk + rejected, "label": "false"}, talk, [rejected]),
        ({"messages": talk + rejected, "label": 0}, talk, [rejected]),
    ]),
    "text-and-turns": ([], [
        ({"prompt": HI, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}, [user(HI)], [[assistant("Yes.")], [assistant("No.")]]),
        ({"prompt": [user(HI)], "chosen": "Yes.", "rejected": "No."}, [user(HI)], [[assistant("Yes.")], [assistant("No.")]]),
    ]),
    "preferred-output": ([], [
        ({"input": {"messages": talk, "tools": [], "parallel_tool_calls": True}, "preferred_output": chosen, "non_preferred_output": rejected}, talk, [chosen, rejected]),
    ]),
    "turns-in-text": ([], [
        ({"prompt": json.dumps(talk), "chosen": json.dumps(chosen), "rejected": json.dumps(rejected[0])}, talk, [chosen, rejected]),
        ({"prompt": str(talk), "chosen": str(chosen), "rejected": rejected}, talk, [chosen, rejected]),
        ({"prompt": [user("it's [1]")], "chosen": "[{'role': 'assistant', 'content': \"it's\\n2\"}]", "rejected": "array([{'content': 'no', 'role': 'assistant'}],\n      dtype=object)"}, [user("it's [1]")], [[assistant("it's\n2")], [assistant("no")]]),
    ]),
    "roles": ([], [
        ({"prompt": [{"role": "human", "content": HI}], "chosen": [{"role": "gpt", "content": "Yes."}], "rejected": [{"role": "Assistant", "content": "No."}]}, [user(HI)], [[assistant("Yes.")], [assistant("No.")]]),
    ]),
    "scored": (["--pairs", "all"], [
        ({"query": HI, "completions": [NO, YES, NO + "?"], "rewards": [0, 1, 0]}, HI, [[YES, NO], [YES, NO + "?"]]),
    ]),
}


def ids_of(tokenizer, prompt, answers):
    if isinstance(prompt, str):
        alone = tokenizer(prompt)["input_ids"]
        full = [tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"] for answer in answers]
    else:
        def render(turns, generate):
            return tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=generate, return_dict=False)
        alone = render(prompt, True)
        full = [render(prompt + answer, False) for answer in answers]
    shared = 0
    while shared < len(alone) and all(shared < len(ids) and ids[shared] == alone[shared] for ids in full):
        shared += 1
    return {"prompt": alone[:shared], "answers": [ids[shared:] for ids in full]}


def main():
    folder = GOLDENS / "shapes"
    folder.mkdir(exist_ok=True)
    expected = {}
    for name, (flags, rows) in FILES.items():
        with open(folder / f"{name}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row, _, _ in rows)
        expected[name] = {"flags": flags, "ids": {}}
        for model in MODELS:
            tokenizer = AutoTokenizer.from_pretrained(GOLDENS / model / "model")
            ids = []
            for _, prompt, answers in rows:
                pairs = answers if name == "scored" else [answers]
                ids += [ids_of(tokenizer, prompt, pair) for pair in pairs]
            expected[name]["ids"][model] = ids
    with open(folder / "expected.json", "w") as file:
        file.write(json.dumps(expected, separators=(",", ":")).replace('},"', '},\n"') + "\n")


main()
