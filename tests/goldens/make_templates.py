#!/usr/bin/env python3
"""Chat templates rendered by transformers 5.23 with Jinja2 3.1.6: writes templates.json beside this file.

    python make_templates.py        (needs transformers==5.23.0, jinja2==3.1.6, trl==1.16.0 for its templates)

The templates are those of TRL 1.16 (`trl/chat_templates`, Apache-2.0) and one-line snippets of what templates use of Python.
"""
import datetime, json, os, pathlib, time

os.environ["TZ"] = "UTC"
time.tzset()
import transformers.utils.chat_template_utils as chat
import trl

NOW = 1772712000  # 2026-03-05 12:00 UTC: the same day in every time zone but the last two


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW)


chat.datetime = Clock
NAMES = ["cohere2", "deepseekv3", "gemma", "gemma3", "gemma4_v5", "glm4moe", "gptoss", "lfm2_v2", "llama3", "llama3_1",
         "llama3_2", "llama3_training", "nemotron_3_nano", "phi3", "phi3_5", "qwen2_5", "qwen3", "qwen3_training"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def user(s):
    return {"role": "user", "content": s}


def assistant(s, **k):
    return {"role": "assistant", "content": s, **k}


def call(name, arguments):
    return {"type": "function", "id": "abc123456", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "one turn": [user("Hi there")],
    "answered, with whitespace": [user("  What is 2+2? \n"), assistant(" 4 \n")],
    "system": [{"role": "system", "content": "Be brief."}, user("Name a fruit."), assistant("Apple")],
    "several turns": [user("Hello!"), assistant("Hi — how can I help? 🙂"), user("Name a <b>colour</b> & a 'shape'."),
                      assistant('Blue "square".')],
    "think block": [user("Why?"), assistant("<think>\nbecause\n</think>\n\nSo."), user("And?"),
                    assistant("<think>hm</think>Then.")],
    "reasoning fields": [user("Why?"), assistant("So.", reasoning_content="because"), user("Go on"),
                         assistant("Then.", reasoning="hm")],
    "content in parts": [user([{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]),
                         assistant([{"type": "text", "text": "Yes"}])],
    "tool calls": [user("Weather?"),
                   assistant("", tool_calls=[call("get", {"city": "Zürich", "n": 3, "x": 1.5, "ok": True, "none": None,
                                                          "list": [1, {"b": "<&>'\""}]})]),
                   {"role": "tool", "name": "get", "content": "{\"t\": 20}"}, assistant("20 degrees")],
    "no turn": [],
}
MESSAGES = [user(" a  b\tc\n"), assistant("X: it's \"1\" — é\x1d", score=1.0, n=7, big=1e16, small=1e-5, ok=True, no=None)]
SNIPPETS = [
    "{{ messages[1] }}",
    "{{ messages[1] | string }}|{{ messages[1].ok }}|{{ messages[1].no }}|{{ messages[1].score }}|{{ messages[1].big }}",
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{{ messages[1] | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
    "{{ {'a': [], 'b': {}} | tojson(indent=4) }}",
    "{{ messages[0].content.strip() }}|{{ messages[0].content.lstrip() }}|{{ messages[0].content.rstrip() }}|",
    "{{ messages[1].content.strip() }}|{{ messages[1].content | trim }}|{{ 'xxaxx'.strip('x') }}|{{ 'xay' | trim('xy') }}",
    "{{ messages[0].content.split() }}|{{ messages[0].content.split(' ') }}|{{ messages[0].content.split(None, 1) }}",
    "{{ 'a,b,,c'.split(',') }}|{{ 'a,b,,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a b  c '.rsplit(None, 1) }}",
    "{{ 'a,b'.split(',', maxsplit=0) }}|{{ ' a b '.split(maxsplit=0) }}|{{ ' a b '.rsplit(maxsplit=0) }}|{{ ''.split() }}|{{ ''.split(',') }}",
    "{{ 'a\\nb\\r\\nc\\n'.splitlines() }}|{{ 'a\\nb\\r\\nc'.splitlines(True) }}|{{ 'a\\x0bb\\u2028c'.splitlines() }}",
    "{{ 'abc'.removeprefix('a') }}|{{ 'abc'.removesuffix('c') }}|{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'a'.partition('=') }}",
    "{{ 'abc'.startswith('a') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'abcabc'.find('c') }}|{{ 'abcabc'.rfind('c') }}|{{ 'abc'.count('b') }}",
    "{{ 'abc'.upper() }}|{{ 'ABC'.lower() }}|{{ 'abc def'.title() }}|{{ 'aBC'.capitalize() }}|{{ 'abc'.replace('b', 'x') }}|{{ '-'.join(['a', 'b']) }}",
    "{{ 'a1'.isalnum() }}|{{ '12'.isdigit() }}|{{ ' '.isspace() }}|{{ 'a'.isupper() }}|{{ '{} {}'.format('x', 3) }}",
    "{{ messages[0].get('content', 'z')[0:2] }}|{{ messages[0].get('nope') }}|{{ messages[0].get('nope', 'z') }}|{{ messages[0].keys() | list }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}|{{ messages[0].values() | list }}|{{ [3, 1, 2].index(1) }}",
    "{{ messages[::-1] | length }}|{{ messages[1:] | length }}|{{ messages[-1].role }}|{{ 'abcdef'[1:-1] }}|{{ 'abcdef'[::-1] }}|{{ 'abcdef'[::2] }}",
    "{{ tools is none }}|{{ tools is iterable }}|{{ documents is defined }}|{{ nope is defined }}|{{ messages is iterable }}|{{ 'a' is iterable }}|{{ 1 is iterable }}",
    "{{ 'a' is sequence }}|{{ messages is sequence }}|{{ messages[0] is sequence }}|{{ messages[0] is mapping }}|{{ 1 is sequence }}|{{ true is number }}|{{ 1.0 is integer }}",
    "{{ 'a' is string }}|{{ none is string }}|{{ none }}|{{ true }}|{{ nope }}|{{ nope | default('d') }}|{{ none | default('d') }}|{{ none | default('d', true) }}",
    "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.found }}",
    "{% for m in messages %}{{ loop.index0 }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }};{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.role }}{% else %}none{% endfor %}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% macro f(x, y='d') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') }}{{ f('b', y='c') }}",
    "{% set x %}captured {{ 1 + 1 }}{% endset %}{{ x | upper }}",
    "{%- if true %}\n  a\n  {%- endif %}\n\n  {% if true %}\nb\n{% endif %}\nc\n",
    "a\n    {% generation %}\n    b\n{% endgeneration %}\nc {%- generation -%} d {%- endgeneration -%} e",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{# a comment #}x{#- another -#} y",
    "{% raw %}{{ not rendered }}{% endraw %}",
    "trailing newline goes\n",
    "two trailing newlines leave one\n\n",
    "{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 2 ** 3 }}|{{ 7 / 2 }}|{{ 'ab' * 3 }}|{{ 1 ~ 'a' ~ none }}|{{ [1] + [2] }}",
    "{{ 'a' in 'cat' }}|{{ 'x' not in ['y'] }}|{{ 'role' in messages[0] }}|{{ 1 if false }}|{{ 'a' if true else 'b' }}|{{ not none }}",
    "{{ ['b', 'a'] | sort | join(', ') }}|{{ messages | map(attribute='role') | list }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ [1, 2, 3] | first }}|{{ [1, 2, 3] | last }}|{{ 'a b' | replace(' ', '_') }}|{{ 'abc' | length }}|{{ 3.7 | int }}|{{ '5' | int + 1 }}|{{ 2.5 | round }}",
    "{{ 'x' | indent(4) }}|{{ 'a\\nb' | indent(2) }}|{{ '<&>' | escape }}|{{ '<&>' | safe }}|{{ messages[0] | items | list }}",
    "{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %b %Y') }}|{{ strftime_now('') }}",
    "{{ raise_exception('no: ' + messages[0].role) }}",
    "{% if messages | length > 1 %}{{ raise_exception('too long') }}{% endif %}",
    "{{ nope.attribute }}", "{{ messages[0].nope.attribute }}", "{{ 'a' + 1 }}", "{{ messages | nofilter }}", "{{ nope | tojson }}",
]


def render(template, messages, generation_prompt):
    try:
        return {"text": chat.render_jinja_template([messages], None, None, template, False, False, generation_prompt, **SPECIAL)[0][0]}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


templates = {n: (pathlib.Path(trl.__file__).parent / "chat_templates" / f"{n}.jinja").read_text(encoding="utf-8") for n in NAMES}
conversations = [{"template": n, "conversation": c, "add_generation_prompt": g, **render(templates[n], CONVERSATIONS[c], g)}
                 for n in NAMES for c in CONVERSATIONS for g in (True, False)]
snippets = [{"template": s, **render(s, MESSAGES, True)} for s in SNIPPETS]
out = {"now": NOW, "special_tokens": SPECIAL, "templates": templates, "conversations": CONVERSATIONS, "messages": MESSAGES}
with open(pathlib.Path(__file__).with_name("templates.json"), "w", encoding="utf-8") as f:
    f.write("{\n")
    for k, v in out.items():
        f.write(f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)},\n")
    for k, v in (("rendered", conversations), ("snippets", snippets)):
        f.write(f" {json.dumps(k)}: [\n" + ",\n".join("  " + json.dumps(i, ensure_ascii=False) for i in v) + "\n ]" + (",\n" if k == "rendered" else "\n"))
    f.write("}\n")
print(len(conversations), "conversations,", len(snippets), "snippets")
