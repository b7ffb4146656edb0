"""Chat templates within bounds: hostile and broken ones end soon, in one sentence; others render as transformers does."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from frspec_cli.errors import FrspecError
from frspec_cli.models import chat_rendering
from frspec_cli.models.chat_rendering import OverBudget, render
from frspec_cli.tokens.template import chat_template
from frspec_cli.tokens.tokenizer import load_tokenizer

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Grüße"}]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rendering, "SECONDS", 0.1)


def _doubled(start: str, double: str, end: str, times: int = 60) -> str:
    loop = f"{{% for i in range({times}) %}}{{% set n.x = {double} %}}{{% endfor %}}"
    return f"{{% set n = namespace(x={start}) %}}{loop}{{{{ {end} }}}}"


LOOPS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops that write nothing": "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = 1 %}{% endfor %}{% endfor %}",
    "loops that are filtered": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(25) }}",
    "maps": "{% for a in range(99999) %}{{ range(99999)|map('string')|list|length }}{% endfor %}",
}
LARGE = {
    "a long text": '{{ "a" * 10000000000 }}',
    "a long list": "{{ ([0] * 100000000000)|length }}",
    "a doubled text": _doubled("'ab'", "n.x + n.x", "n.x|length"),
    "a joined text": _doubled("'ab'", "n.x ~ n.x", "n.x|length"),
    "a list in itself": _doubled("['ab']", "[n.x, n.x]", "n.x"),
    "a tuple in itself": _doubled("('ab',)", "(n.x, n.x)", "n.x == 1"),
    "a dictionary in itself": _doubled("{}", "{'a': n.x, 'b': n.x}", "n.x|tojson"),
    "a dictionary of equal values": _doubled("['ab']", "dict(a=n.x, b=n.x)", "n.x"),
    "a captured text": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set x %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = x %}{% endfor %}",
    "own words": "{% macro m() %}{% for a in range(99999) %}"
    + "own words " * 500
    + "{% endfor %}{% endmacro %}{{ m() }}",
    "padding": "{{ 'a'.ljust(10000000000) }}",
    "centred": "{{ 'a'|center(10000000000) }}",
    "a wide field": "{{ '%10000000000d' % 1 }}",
    "a wide field by the filter": "{{ '%*d'|format(1000000000, 1) }}",
    "a wide field by the method": "{{ '{:10000000000}'.format(1) }}",
    "a nested width": "{{ '{:{}}'.format(1, 10000000000) }}",
    "fields": _doubled("'ab'", "n.x + n.x", "('{0}' * 10000).format(n.x)", 10),
    "replaced": _doubled("'ab'", "n.x + n.x", "n.x.replace('a', n.x)", 12),
    "joined": _doubled("'ab'", "n.x + n.x", "(range(9999)|map('string')|join(n.x))", 10),
    "indented": _doubled("'\n'", "n.x + n.x", "n.x|indent(99999)", 10),
    "indented JSON": "{{ ([0] * 1000)|tojson(indent=100000000) }}",
    "stripped": _doubled("'ab'", "n.x + n.x", "n.x.strip(n.x)", 12),
    "a power": "{{ 10 ** (10 ** 10) }}",
    "powers of powers": _doubled("3", "n.x ** 3", "n.x"),
    "rounded": "{{ 1.5|round(1000000000) }}",
    "bytes": "{{ 1.to_bytes(10000000000, 'big')|length }}".replace("1.", "(1)."),
}
FAILING = {
    "go away": "{{ raise_exception('go away') }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "OverflowError": "{{ 2.0 ** 100000 }}",
    "RecursionError": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "line 2: unexpected": "x\n{{ 1 + }}",
    "Encountered unknown tag": "{% nonsense %}",
    "undefined": "{{ nothing.at.all }}",
    "unsafe": "{{ messages.__class__.__mro__ }}",
    "UnicodeEncodeError": "{{ '\\ud800' }}",
    "no loader": "{% include 'x' %}",
    "KeyError": "{{ '%(a)s' % {} }}",
    "statically nested": "{% for a in messages %}" * 30 + "{% endfor %}" * 30,
}


@pytest.mark.parametrize("kind", LOOPS)
def test_what_runs_on_is_ended(soon: None, kind: str) -> None:
    begun = time.thread_time()
    with pytest.raises(OverBudget, match=r"takes longer than 0\.1 seconds"):
        render(LOOPS[kind], MESSAGES, generate=True)
    assert time.thread_time() - begun < 3


@pytest.mark.parametrize("kind", LARGE)
def test_what_grows_is_ended_before_it_is_large(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(chat_rendering, "CHARACTERS", 1 << 20)
    with pytest.raises(FrspecError, match=r"the chat template (makes|formats|computes|asks|indents)") as caught:
        render(LARGE[kind], MESSAGES, generate=True)
    assert isinstance(caught.value, OverBudget)


@pytest.mark.parametrize("reason", FAILING)
def test_what_fails_is_one_sentence(reason: str) -> None:
    with pytest.raises(FrspecError, match="the chat template refuses a conversation: ") as caught:
        render(FAILING[reason], MESSAGES, generate=True)
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


def test_a_reason_does_not_act_on_the_terminal() -> None:
    with pytest.raises(FrspecError) as caught:
        render("{{ raise_exception('\\x1b[2Jgone\\u202e') }}", MESSAGES, generate=True)
    assert caught.value.message.isprintable()


def test_the_bounds_hold_in_any_thread(soon: None) -> None:
    errors: list[FrspecError] = []

    def run() -> None:
        try:
            render(LOOPS["nested ranges"], MESSAGES, generate=True)
        except FrspecError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(errors[0], OverBudget)
    assert render("{{ messages[0].content }}", MESSAGES, generate=True) == "hello"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ bos_token }}{{ m['role'] + ': ' + m.content | trim }}\n{% endfor %}",
        "{%- for m in messages %}{%- if loop.first %}{{ m.role ~ 1 ~ none }}{% endif %}{%- endfor %}x\n",
        "{% set n = namespace(last=messages|length - 1) %}{% for m in messages[::-1] if m.role == 'user' %}"
        "{% set n.last = loop.index0 %}{{ n.last }}{{ loop.length }}{% endfor %}",
        "{% macro say(m, end='!') %}{{ m.content }}{{ end }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
        "{{ messages|tojson(indent=2) }}{{ messages|map(attribute='content')|join(', ') }}",
        "{{ '%s and %03d' % ('a', 7) }}{{ '{:>5}|{}'.format('a', 7) }}{{ 'a-b'.split('-')[-1].lstrip('\n') }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% set a, b = 1, (2, 3) %}{{ a + b[0] * 3 ** 2 % 5 }}{{ 'ab' * 3 }}{{ [1] + [2] }}{{ {'a': 1}.items()|list }}",
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ messages|selectattr('role', 'eq', 'user')|list }}",
        "{% set x %}{{ messages[0].content|upper }}{% endset %}{{ x }}{{ x is string }}{{ tools is none }}{{ documents }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{{ messages[0]['content'].replace('l', 'LL') | indent(2) }}{{ ['b', 'a']|sort|first }}{{ eos_token }}",
    ],
)
def test_what_is_not_hostile_renders_as_transformers_does(tiny_folder: Path, source: str) -> None:
    from transformers import AutoTokenizer

    processor = AutoTokenizer.from_pretrained(tiny_folder)
    for generate in (False, True):
        expected = processor.apply_chat_template(
            MESSAGES, chat_template=source, tokenize=False, add_generation_prompt=generate
        )
        assert render(source, MESSAGES, generate=generate, variables=processor.special_tokens_map) == expected


def test_a_long_conversation_is_within_the_bounds() -> None:
    source = "{% for m in messages %}<|turn|>{{ m['role'] + '\n' + m['content'] | trim + '<|end|>' }}\n{% endfor %}"
    messages = [{"role": "user", "content": " text" * 3000}] * 1000
    assert len(render(source, messages, generate=True)) > 14_000_000


def _with_template(folder: Path, source: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model in a folder whose template can be changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_folder.iterdir():
        if path.name != "tokenizer_config.json":
            (folder / path.name).symlink_to(path)
    (folder / "tokenizer_config.json").write_text((tiny_folder / "tokenizer_config.json").read_text())
    return folder


def test_the_probe_for_the_end_of_turns_ends_too(soon: None, model: Path) -> None:
    _with_template(model, LOOPS["nested ranges"])
    with pytest.raises(OverBudget):
        chat_template(load_tokenizer(str(model)))
    _with_template(model, FAILING["ZeroDivisionError"])
    template = chat_template(load_tokenizer(str(model)))
    assert template is not None
    assert template.turn_end is None


@pytest.mark.parametrize("reason", ["go away", "ZeroDivisionError", "unsafe", "line 2: unexpected"])
@pytest.mark.parametrize("command", ["generate", "collect", "verify", "bench"])
def test_every_command_says_it_in_one_sentence(cli, model: Path, tmp_path: Path, command: str, reason: str) -> None:
    _with_template(model, FAILING[reason])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "the fox"}\n')
    loading = ["--model", model, "--device", "cpu", "--dtype", "float32", "-n", 4]
    arguments = {
        "generate": ["--prompts", prompts],
        "collect": [prompts, "--out", tmp_path / "answers.jsonl"],
        "verify": ["--prompts", prompts, "--method", "lookup"],
        "bench": ["--suite", prompts, "--methods", "ar,lookup", "--out", tmp_path / "bench.json"],
    }
    code, _, err = cli(command, *arguments[command], *loading)
    assert code == 1, err
    assert f"the chat template refuses a conversation: {reason.split(':')[0]}" in err or reason in err
    assert "Traceback" not in err


def test_a_hostile_template_ends_a_command(cli, soon: None, model: Path) -> None:
    _with_template(model, LOOPS["nested ranges"])
    code, out, err = cli("generate", "x", "--model", model, "--device", "cpu")
    assert (code, out) == (1, "")
    assert "the chat template takes longer than 0.1 seconds." in err
