#!/usr/bin/env python3
"""What filters, tests and methods of chat templates give under Jinja2 3.1.6 as transformers 5.23 sets it up: writes
tests/goldens/jinja.json.

    python make_jinja_goldens.py        (needs transformers==5.23.0, jinja2==3.1.6)
"""
import json, pathlib

import transformers.utils.chat_template_utils as chat

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
MESSAGES = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": " it's  a\tTEST-case,\r\nof_words \n"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "b", "arguments": {"z": 1, "a": [1.0, True, None, "é<&>'"], "M": {"k": "v"}}}},
        {"function": {"name": "a", "arguments": "{\"x\": 1}"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}, {"type": "text", "text": "Y"}]},
]
EXPRESSIONS = """
'abcabc' | replace('b', 'X', 1) | 'aaa' | replace('a', 'b', count=2) | 'aaa' | replace('', '-')
5 | replace(5, 6)
none | replace('N', 'n')
'xxaxx' | trim('x') | 'xxaxx' | trim(chars='x') | 5 | trim | none | trim | nope | trim
messages | join(', ', attribute='role') | [1, none, 'a', 2.0] | join('|') | [] | join | 'abc' | join('-') | {'a': 1, 'b': 2} | join(',')
messages | map(attribute='role') | join(d=' ')
[1, 2] | join(3)
nope | join(',') | 'hello wOrld-foo (bar) [baz] it\\'s x_y' | title | 'ABC dEF' | capitalize | 'ABC' | lower | 5 | upper
messages[1].content | title
messages[1].content | wordcount | 'a b-c d' | wordcount
messages[1].content | upper | none | upper | true | lower | [1, 'A'] | lower
'x' | default('d') | '' | default('d') | '' | default('d', true) | '' | default('d', boolean=true) | 0 | d('z', true) | nope | default | nope.a | default('q')
nope | default(default_value='v')
none | default('x') | none | default('x', true) | false | default(1, true)
2.5 | round | 3.5 | round | 2.567 | round(2) | 2.567 | round(precision=1) | 2.4 | round(method='ceil') | 2.6 | round(0, 'floor') | 7 | round | 1234 | round(-2) | -2.5 | round
2.5 | round | int | 3 | round(2)
'42' | int | '4.7' | int | 'x' | int | 'x' | int(7) | 'x' | int(default=3) | '0x1A' | int(0, 16) | '101' | int(base=2) | 3.99 | int | -3.99 | int | none | int | true | int | '  8 ' | int | '1_000' | int | '-0x1f' | int(0, 16) | '--5' | int | '' | int | '1e3' | int | nope | int | [] | int(4)
'1.5' | float | 'x' | float | 'x' | float(2.5) | 3 | float | true | float | '1e3' | float | none | float | 'nan' | float | 'inf' | float
[3, 1, 2] | sort | ['b', 'A', 'c'] | sort | ['b', 'A', 'c'] | sort(case_sensitive=true) | [3, 1, 2] | sort(reverse=true) | [3, 1, 2] | sort(true) | 'cab' | sort | {'b': 1, 'a': 2} | sort
messages | sort(attribute='role') | map(attribute='role') | list
messages[2].tool_calls | sort(attribute='function.name') | map(attribute='function.name') | list
messages[:2] | sort(attribute='role,content') | map(attribute='role') | list
{'b': 1, 'A': 3, 'c': 2} | dictsort | {'b': 1, 'A': 3} | dictsort(true) | {'b': 1, 'A': 3, 'c': 2} | dictsort(false, 'value') | {'b': 1, 'A': 3} | dictsort(by='value', reverse=true)
messages[2].tool_calls[0].function.arguments | dictsort
messages[0] | items | list | {} | items | list | nope | items | list
messages | groupby('role') | list | length
[1, 1, 2, 'a', 'A'] | unique | list | ['a', 'A'] | unique(case_sensitive=true) | list | [[1], [1]] | length
messages | unique(attribute='role') | map(attribute='role') | list
[3, 1, 2] | min | [3, 1, 2] | max | ['b', 'A'] | min | ['b', 'A'] | max | [] | min | [] | max | ['b', 'A'] | min(case_sensitive=true)
messages | max(attribute='role')
[1, 2, 3] | sum | [1.5, 2] | sum | [] | sum | [1, 2] | sum(start=10) | [{'a': 1}, {'a': 2}] | sum(attribute='a') | [{'a': 1}] | sum('a', 5)
[1, 2, 3, 4, 5] | batch(2) | list | [1, 2, 3] | batch(2, 'x') | list | [1, 2, 3, 4, 5] | slice(2) | list | [1, 2, 3] | slice(2, 'f') | list
'abc' | reverse | [1, 2] | reverse | list | 'abc' | first | 'abc' | last | [] | first | [] | last | {'a': 1} | first
'abc' | list | {'a': 1, 'b': 2} | list | (1, 2) | list | nope | list | 5 | length
none | length
nope | length | '' | length | {'a': 1} | length | {'a': 1} | count
-5 | abs | 5.5 | abs | 'abc' | string | 5 | string | none | string | [1, 'a'] | string | true | string
'%s is %d' | format('a', 3) | '%5.2f|' | format(3.14159) | '%(a)s' | format(a=1) | '%-5s|%05d' | format('x', 42) | '%x %o %e' | format(255, 8, 12345.678) | '%r' | format('a')
[1, 2, 3, 4] | select('odd') | list | [1, 2, 3, 4] | reject('odd') | list | [0, 1, '', 'a'] | select | list | [1, 5] | select('greaterthan', 2) | list | [1, 2, 3] | select('divisibleby', 3) | list
messages | selectattr('content') | map(attribute='role') | list
messages | selectattr('tool_calls', 'defined') | list | length
messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list
messages | rejectattr('content', 'none') | list | length
messages | selectattr('role', 'in', ['user', 'system']) | list | length
messages | selectattr('content', 'string') | list | length
messages | selectattr('role', '==', 'user') | first
messages | selectattr('role', '!=', 'user') | map(attribute='role') | join(',')
messages | map(attribute='nope') | list
messages | map(attribute='nope', default='d') | list
messages[:2] | map(attribute='content') | map('trim') | list
[1, 2] | map('string') | join | ['a', 'b'] | map('replace', 'a', 'x') | list | ['a'] | map('upper') | first | ['  a'] | map('indent', 2) | list
messages[2].tool_calls | map(attribute='function.name') | list
messages[2].tool_calls | map(attribute='function') | map(attribute='arguments') | list
[[1, 2], [3, 4]] | map('first') | list | [[1, 2]] | map(attribute=1) | list | [[1, 2]] | map(attribute='0') | list
'<a href="x">\\'b\\'</a>' | escape | '<b>' | e | '<b>' | safe | '<b>' | forceescape | '<p>a</p> b' | striptags
'a b&c/é' | urlencode | {'a': 'b c'} | urlencode
'hello world foo' | truncate(8) | 'hello world foo' | truncate(8, true) | 'hello' | truncate(10) | 'hello world' | truncate(5, true, '..') | 'x' | center(5) | 'hello wide world' | wordwrap(6)
12345678 | filesizeformat | {'a': 1} | xmlattr | 'a\\nb' | pprint
messages[2].tool_calls | tojson
messages[2].tool_calls[0].function.arguments | tojson(indent=2)
messages[2].tool_calls[0].function.arguments | tojson(indent=2, ensure_ascii=True)
messages[2].tool_calls[0].function.arguments | tojson(indent=4, sort_keys=true, separators=(',', ':'))
messages[2].tool_calls[0].function.arguments | tojson(indent='  ')
messages[2].tool_calls[0].function.arguments | tojson(true) | 'é' | tojson(false, 2) | [] | tojson(indent=2) | (1, 2) | tojson
'a/b\\u2028\\x7f\\u0000' | tojson | 1e20 | tojson | 1.0 | tojson | 123456789012345678901 | tojson | 1e-7 | tojson
messages[2].tool_calls[0].function.arguments | tojson(indent=0)
{'b': 1, 2: 2, none: 3, true: 4} | tojson
{'b': 1, 'a': {'y': 1, 'x': 2}} | tojson(sort_keys=True)
messages | tojson | length | range(3) | list | tojson | 'x' | tojson | tojson
messages[2].tool_calls[0].function.arguments | string
messages[2].tool_calls[0].function.arguments.items() | list
'' is none | none is none | nope is none | 'a' is defined | nope is undefined | messages[0].nope is defined | messages[0]['nope'] is defined
1 is number | 1.5 is number | '1' is number | true is number | true is integer | 1 is integer | 1.0 is float | 1 is float | true is boolean | 1 is boolean | none is boolean
'a' is string | 'a' is iterable | [1] is iterable | {} is mapping | 'a' is mapping | messages is sequence | (1, 2) is sequence | 5 is sequence | none is iterable | range(2) is iterable | range(2) is sequence
nope is string | nope is iterable | nope is mapping | nope is sequence | nope is number | nope is boolean | nope is true | nope is false
true is true | 1 is true | false is false | 0 is false | none is false | 'a' is true
3 is odd | 4 is even | 9 is divisibleby 3 | 9 is divisibleby(num=3) | 'a' is lower | 'A' is upper | 'aB' is lower | 1 is eq 1 | 1 is ne 2 | 1 is lt 2 | 2 is ge 2 | 1 is equalto 1.0 | 'a' is in 'abc' | 1 is in [1, 2] | none is sameas none | true is sameas true | 1 is sameas 1
raise_exception is callable | 'a' is callable | 'upper' is filter | 'nope' is filter | 'odd' is test
1 == 1.0 | true == 1 | '1' == 1 | none == false | [1] == [1] | (1, 2) == [1, 2] | {'a': 1} == {'a': 1} | 'a' < 'b' | [1, 2] < [1, 3] | 1 < 2 < 3 | 1 < 3 < 2
'a' < 1
none < 1
[] or 'x' | '' or none | 0 or false | 'a' and 'b' | none and 1 | not '' | not [0] | [] and 1 | {} or [] | 1 and 0
nope or 'x' | nope and 'x' | nope == none | nope == nope2 | nope ~ 'x' | nope is not defined
nope + 'x'
nope < 1
'a' * 3 | [0] * 2 | 2 ** 10 | 2 ** -1 | 7 // 2 | 7.5 // 2 | -7 // 2 | 7 % 3 | -7 % 3 | 7.5 % 2 | 1 / 2 | 4 / 2 | 1 + 2.0 | 'a' ~ 1 ~ none ~ true | 10 - 3 - 2 | 2 ** 3 ** 2 | -2 ** 2
'a%sb' % 'x'
'%s-%s' % ('x', 'y')
'%d' % 5
'a' + 'b' * 2 | [1] + [2] | (1,) + (2,) | 1 / 3 | 1e16 | 1e15 | 123456789.123456789 | 0.1 + 0.2 | 1e-5 | 100000 * 100000 | 2 ** 63 | 2 ** 64
'a' if true else 'b' | 'a' if false | ('a' if false) is defined | 'x' if messages | 'x' if 0 else 'y'
messages[0]['role'] | messages[-1]['role'] | messages[0].content[:2] | messages[0].content[-3:] | messages[0].content[::-1] | messages[0].content[1] | messages[-1:] | length | messages[9] | messages[9] is defined
messages[0].items() | list | messages[0].keys() | list | messages[0].values() | list | messages[0].get('x') | messages[0].get('x', 1) | messages[0].get('role')
'a,b'.split(',') | 'a  b'.split() | 'a-b-c'.rsplit('-', 1) | 'abc'.find('z') | 'abcb'.replace('b', 'x') | 'abcb'.replace('b', 'x', 1) | 'ab'.startswith('a') | 'ab'.endswith(('b', 'c')) | 'x'.join(['a', 'b']) | 'Ab'.swapcase() | 'a'.zfill(3) | 'a'.center(5) | 'a'.ljust(3) ~ '|' | 'a'.rjust(3)
'abc'.index('c') | 'a b'.title() | 'it\\'s a-b'.title() | 'ABC'.casefold() | 'a\\tb'.expandtabs(4) | 'aXb'.isalpha() | 'a1'.isalnum() | '12'.isdigit() | '12'.isnumeric() | '12'.isdecimal() | 'Ab'.istitle() | 'é'.isascii() | 'a b'.isidentifier() | 'a'.islower() | 'A'.isupper() | 'abc'.count('b') | 'abcabc'.rfind('b') | 'abcabc'.rindex('b')
'{} {}'.format(1, 'a') | '{0}{1}{0}'.format('a', 'b') | '{a}'.format(a=1) | '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}'.format('a', 'b', 'c', 42, 3.14159) | '{!r}'.format('a') | '{{}}'.format()
'abc'.encode() | 'a'.isprintable() | 'a\\nb'.splitlines() | ' a '.strip() ~ '|' | 'xxa'.lstrip('x') | 'axx'.rstrip('x') | 'abc'.upper().lower() | 'ab'.removeprefix('a') | 'a=b'.partition('=') | 'abc'.translate({97: 'x'})
[1, 2, 1].count(1) | [1, 2].index(2) | 'abc'.__class__ | messages[0].__class__ | (1, 2).count(1) | [3, 1].copy() | {'a': 1}.copy()
[1].append(2)
{'a': 1}.update({'b': 2})
{'a': 1}.pop('a')
messages[0].content | length | messages[0].content.strip() | messages[3].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join
dict(a=1, b='x') | dict({'a': 1}, b=2) | dict() | range(3) | range(1, 10, 3) | list | range(3, 0, -1) | list | dict(a=1).a | namespace(a=1).a | range(0) | list | lipsum is defined | cycler is defined | joiner is defined
namespace({'a': 1}, b=2).b
namespace(a=1) is mapping | [1, 2, 3][1:] | [1, 2, 3][:-1] | 'abc'[0] | (1, 2)[0] | {'a': {'b': 1}}['a']['b'] | {'a': 1}['b'] is defined | [[1, 2], [3]] | sum(start=[])
(1,) | () | (1, 'a') | [(1, 2)] | {'a': (1,)} | {1: 'a'} | {true: 1} | [none, true, 1.0, 'it\\'s', "q\\"q", 'a\\nb'] | {'é': 'é\\u200b\\x00\\u00a0\\u3000e\\u0301\\U0001f642\\u00ad'} | [[], {}, ()]
'\\x41\\u00e9\\t|\\a\\v\\/\\d\\101' | '\\U0001f642' | 'a' 'b'
1_000 | 0x1f | 0b11 | 0o17 | 1.5e3 | 1E2 | .5 is defined
""".strip("\n").split("\n")
TEMPLATES = [
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }};{% endfor %}",
    "{% for role, group in messages | groupby('role') %}{{ role }}:{{ group | length }};{% endfor %}",
    "{% for g in messages | groupby(attribute='role') %}{{ g.grouper }}={{ g.list | map(attribute='role') | list }};{% endfor %}",
    "{% for m in messages | reverse %}{{ m.role }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for m in messages recursive %}{{ loop.depth }}{{ loop.depth0 }}{{ loop.revindex0 }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }};{% endfor %}",
    "{% for k in messages[0] %}{{ k }};{% endfor %}{% for c in 'ab' %}{{ c }}{% endfor %}{% for x in nope %}x{% else %}none{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }};{% endfor %}",
    "{% for x in none %}{{ x }}{% endfor %}", "{% for x in 5 %}{{ x }}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}",
    "{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
    "{% filter upper %}a{{ messages[0].role }}{% endfilter %}|{% filter indent(2) %}a\nb\n{% endfilter %}|",
    "{% set x | trim | upper %}  a {{ 1 }} {% endset %}[{{ x }}]",
    "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }}|{{ f(1, c=3) }}|{{ f(a=9) }}|{{ f() }}",
    "{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}",
    "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{% set x = 2 %}{{ f() }}",
    "{% macro f() %}{% set x = x ~ 'a' %}{{ x }}{% endmacro %}{% set x = 'b' %}{{ f() }}{{ x }}",
    "{% macro f() %}{% filter replace('a', x) %}banana{% endfilter %}{% endmacro %}{% set x = 'o' %}{{ f() }}",
    "{% set x = 'o' %}{% macro f() %}{% set y | replace('a', x) %}banana{% endset %}{{ y }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{% for i in [1] %}{% if i %}{{ g(i) }}{% endif %}{% endfor %}{% endmacro %}{% macro g(i) %}<{{ i }}>{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %}[{{ caller(1) }}]{% endmacro %}{% call(x) f() %}{{ x }}{{ messages | length }}{% endcall %}",
    "{% for m in messages %}{% macro f() %}{{ m.role }}{{ loop.index }}{% endmacro %}{{ f() }};{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.role }}{% if not loop.last %},{% endif %}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.b = 2 %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{{ ns['a'] }}",
    "{% set ns = namespace() %}{% set ns.x %}a{{ 1 }}{% endset %}{{ ns.x }}{% macro f() %}{% set ns.x %}b{% endset %}{% endmacro %}{{ f() }}{{ ns.x }}",
    "{% set d = {'a': 1} %}{% set d.a = 2 %}{{ d }}",
    "{% set l = [] %}{% set _ = l.append(1) %}{{ l }}", "{% do [].append(1) %}", "{% set x = messages[0].pop('role') %}",
    "a\r\n{% if true %}\r\n  b\r\n  {% endif %}\r\nc\rd\n\r\n", "{{ 'a\r\nb\rc\\r\\n' }}|\r\n", "{% raw %}\r\n a {{ x }}\r\n{% endraw %}\r\n|",
    "  {% if true %}  a  {% endif %}  \n  {{ 1 }}  {% if true %}\n b{% endif %}\n\n", "  {%+ if true %} a{%+ endif +%}\n b",
    "{# c #}\n  {# c #}  \n a {# c -#}  \n b\n", "{{ 1 -}}  \n {{- 2 }}\n{%- if true -%} \n x \n{%- endif -%}\n y\n",
    "{% if true -%}\n\n  x\n{% endif %}\n\t{% if true %}\ty\n\t{% endif %}", "\u00a0{% if true %}x{% endif %}\n\u00a0 {% if true %}y{% endif %}",
    "{% if true %}\n\n\nx{% endif %}\n\n", "{% set x = 'a' -%}   b", "{% for i in [1,2] -%}\n  {{ i }}\n{%- endfor %}", "x\n", "x\n\n", "\n", "{{ 'x\n' }}\n",
    "{{ {'a': {'b': 1}}}}", "{{ '}}' }}{{ '%}' }}{# }} #}", "{{ \"a'b\" ~ 'c\"d' }}", "a {{ 1 }}{#- c -#} b",
    "{% if messages[0].role == 'system' %}s{% elif true %}e{% else %}x{% endif %}{% if nope %}{% else %}n{% endif %}",
    "{% if 'x' in nope %}a{% endif %}", "{{ 'role' in messages[0] }}{{ 'x' not in [1] }}{{ 1 in (1, 2) }}{{ none in [none] }}{{ 'a' in {'a': 1} }}",
    "{{ messages[2].content + 'x' }}", "{{ messages[2].content ~ 'x' }}", "{{ messages[2].content | length }}", "{{ messages[2].content.strip() }}",
    "{{ messages[3].content + 'x' }}", "{{ 'x' + messages[3].content }}", "{{ 'n: ' + 5 }}", "{{ nope.x }}", "{{ nope() }}", "{{ messages.x }}", "{{ messages[0].role.x }}|{{ messages.nope is defined }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% block a %}b{% endblock %}{{ self.a() }}", "{% import 'x' as y %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% set _ns = namespace(_a=1) %}{{ _ns._a }}", "{{ strftime_now('%Y') | length }}", "{% trans %}x{% endtrans %}", "{% debug %}",
]


def render(template):
    try:
        return {"text": chat.render_jinja_template([MESSAGES], None, None, template, False, False, False)[0][0]}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"[:160]}


def expressions(line):
    """The expressions of a line: ` | ` in front of a value divides them, in front of a filter it does not."""
    env = chat._compile_jinja_template("x").environment
    found, pieces = [], line.split(" | ")
    while pieces:
        piece = pieces.pop(0)
        while pieces and pieces[0].split("(")[0].strip() in env.filters:
            piece += " | " + pieces.pop(0)
        found.append("{{ " + piece.replace("\\\\", "\\") + " }}")
    return found


templates = [t for line in EXPRESSIONS for t in expressions(line)] + TEMPLATES
cases = [{"template": t, **render(t)} for t in dict.fromkeys(templates)]
with open(GOLDENS / "jinja.json", "w", encoding="utf-8") as f:
    f.write('{\n "messages": ' + json.dumps(MESSAGES, ensure_ascii=False) + ',\n "cases": [\n')
    f.write(",\n".join("  " + json.dumps(c, ensure_ascii=False) for c in cases) + "\n ]\n}\n")
print(len(cases), "templates,", sum("error" in c for c in cases), "of them refused")
