"""Chat templates rendered within bounds: so many seconds, so many characters, and every failure one sentence.

A template is a program that came with the model. Jinja's sandbox keeps it away from the machine, but lets it run forever and
fill the memory. The bounds are kept in the code that Jinja generates: each loop, call and output takes a step (every few
steps the clock is read), and each operation that makes a long text, a large container or a large number out of small ones
is charged before or after it runs. A signal works in the main thread only, a trace slows everything down, a watchdog cannot
stop a function written in C, and a child process would cost a round trip for each turn of a corpus.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import string
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2.exceptions
from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from frspec_cli.errors import FrspecError

SECONDS = 2.0
"""Of the thread's own processor time, so that what a busy machine renders is the same."""
CHARACTERS = 1 << 28
"""Of all texts that a rendering makes on its way; sixteen times the longest document."""
_STEPS = 64  # between two looks at the clock
_BITS = 1 << 16
_LARGEST = 100_000  # a width or a precision, as in the sandbox's own `range`
_ELEMENT = 16  # characters that an element of a container counts as
_FIELD = 1000  # characters that a field of a format string counts as, besides its value
_GROWING = frozenset(
    {
        *("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "join", "replace"),
        *("strip", "lstrip", "rstrip", "trim", "round", "to_bytes"),
    }
)
"""Functions, methods and filters whose work or result is a product of their arguments' sizes."""
_LEFT_OUT = ("batch", "lipsum", "pprint", "slice", "striptags", "urlencode", "urlize", "wordwrap", "xmlattr")
"""Filters and functions that no chat template needs, and that make much of little, or take long."""
_REFUSED = frozenset({"from_bytes", "maketrans", "striptags", "translate"})
"""Methods likewise."""
_HINT = "Check the model's chat_template: no conversation needs so much."
_LONG_FIELD = re.compile(r"%(\(.*?\))?[-+ #0]*(\d{4}|\*|\d*\.(\d{4}|\*))")


class OverBudget(FrspecError):
    """The template needs more time or memory than it may have."""


class _Budget(threading.local):
    """What is left of one rendering in this thread."""

    steps = 0
    characters = 0
    deadline = 0.0

    def begin(self) -> None:
        self.steps, self.characters = _STEPS, CHARACTERS
        self.deadline = time.thread_time() + SECONDS

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            self.steps = _STEPS
            if time.thread_time() > self.deadline:
                raise OverBudget(f"the chat template takes longer than {SECONDS:g} seconds.", hint=_HINT)

    def allow(self, characters: int) -> None:
        """Raises `OverBudget` if these characters are more than what is left."""
        if characters > self.characters:
            raise OverBudget(f"the chat template makes more than {CHARACTERS:,} characters.", hint=_HINT)

    def charge(self, characters: int) -> None:
        self.allow(characters)
        self.characters -= characters


_BUDGET = _Budget()


def render(
    source: str, messages: Sequence[Mapping[str, Any]], *, generate: bool, variables: Mapping[str, Any] | None = None
) -> str:
    """The conversation as text. Raises `FrspecError` if the template refuses or fails, `OverBudget` if it needs too much.

    source: Jinja.
    generate: add the prompt for the assistant's next turn.
    variables: the special tokens by their names, such as bos_token.
    """
    values = {"tools": None, "documents": None, **(variables or {})}
    _BUDGET.begin()
    try:
        template = _compiled(source)
        context = template.new_context({**values, "messages": list(messages), "add_generation_prompt": generate})
        text = "".join(template.root_render_func(context))
        if not text.isascii():
            text.encode()  # lone surrogates are no text
        return text
    except OverBudget:
        raise
    except Exception as error:  # a template may raise anything: it is the template's failure, never a bug of ours
        raise FrspecError(f"the chat template refuses a conversation: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """The first line of what went wrong, without characters that would act on a terminal."""
    text = str(error) if isinstance(error, jinja2.exceptions.TemplateError) else f"{type(error).__name__}: {error}"
    if isinstance(error, jinja2.exceptions.TemplateSyntaxError):
        text = f"line {error.lineno}: {error.message}"
    line = text[:300].strip().split("\n")[0].rstrip(".") or type(error).__name__
    return "".join(char if char.isprintable() else "\ufffd" for char in line)


@functools.lru_cache(maxsize=4)
def _compiled(source: str) -> jinja2.Template:
    return _Environment().from_string(source)


class _CodeGenerator(CodeGenerator):
    """Jinja's compiler, whose code reports to the environment what Jinja lets nobody intercept."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.body.insert(0, nodes.Output([]))
        if node.test is not None:
            step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            node.test = nodes.And(step, node.test)
        super().visit_For(node, frame)

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:
        size = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        self.writeline(f"environment.step({size})")
        if node.nodes:
            super().visit_Output(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._charged(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._charged(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._charged(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            self._charged(super().visit_Getitem, node, frame)
        else:
            super().visit_Getitem(node, frame)

    def _charged(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.charged(")
        visit(node, frame)
        self.write(")")


class _Generation(Extension):
    """`{% generation %}`, which marks what the assistant wrote: here the block is simply rendered."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """Shown without its values: a few namespaces inside each other would make an endless text."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it (blocks trimmed, loop controls, a way to refuse), each operation counted."""

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # Constants are not computed while compiling, where nothing would count them.
        extensions = [loopcontrols, _Generation]
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False, finalize=_finalize
        )
        self.filters["tojson"] = _to_json
        for name in _LEFT_OUT:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        self.filters = {name: _counted(name, function) for name, function in self.filters.items()}
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def step(self, characters: int = 0) -> bool:
        """One step, and the template's own text that it writes. Always true."""
        _BUDGET.step()
        _BUDGET.charge(characters)
        return True

    def charged(self, value: Any) -> Any:
        """The value itself."""
        _charge(value)
        return value

    def joined(self, parts: Sequence[Any]) -> str:
        """What `~` gives."""
        _BUDGET.step()
        texts = [_text(part) for part in parts]
        _BUDGET.charge(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _BUDGET.step()
        if operator == "*":
            _check_repetition(left, right)
            _check_repetition(right, left)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str | bytes):
            _check_percent(left, right)
        return self.charged(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _BUDGET.step()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str | bytes | int):
            if name in _REFUSED:
                raise jinja2.exceptions.SecurityError(f"{name} is not available to chat templates")
            args = _checked(name, (owner, *args))[1:]
        value = super().call(__context, __obj, *args, **kwargs)
        if not isinstance(owner, dict):  # which gives what is in it already
            _charge(value)
        return value

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text: str = value.__self__

        def run(*args: Any, **kwargs: Any) -> str:
            for _, _, form, _ in string.Formatter().parse(text):
                if form and ("{" in form or re.search(r"\d{4}", form)):
                    raise OverBudget("the chat template formats a value to more than 999 places.", hint=_HINT)
            _BUDGET.charge(text.count("{") * (_FIELD + _weight((args, kwargs))))
            return wrapped(*args, **kwargs)

        return run


@pass_context  # Jinja would finalize constants while compiling otherwise
def _finalize(context: Context, value: Any) -> str:
    """What is written for a value."""
    text = _text(value)
    _BUDGET.charge(len(text))
    return text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    _charge(value)
    return str(value)


def _counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes a step, and whose result is charged unless it is what it was given."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        _BUDGET.step()
        args = _checked(name, args, kwargs)
        value = function(*args, **kwargs)
        if not any(value is each for each in args):
            _charge(value)
        return value

    return run


def _checked(name: str, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """The arguments of a function, method or filter whose result they allow; generators to be joined as lists."""
    if name == "format":  # the filter; the method is wrapped
        _check_percent(args[0], (args[1:], kwargs))
    if name == "sum" and not isinstance((kwargs or {}).get("start", args[3] if len(args) > 3 else 0), int | float):
        raise jinja2.exceptions.SecurityError("sum is for numbers only in chat templates")
    if name not in _GROWING:
        return tuple(args)
    if name == "join":
        args = [list(each) if isinstance(each, types.GeneratorType | map | filter) else each for each in args]
        _BUDGET.allow(sum(_weight(each) for each in args))
    values = [*args, *(kwargs or {}).values()]
    numbers = [abs(each) for each in values[1:] if isinstance(each, int)]
    if any(number > _LARGEST for number in numbers):
        raise OverBudget(f"the chat template asks for a size of more than {_LARGEST:,}.", hint=_HINT)
    sizes = [len(each) for each in values if isinstance(each, str | bytes | list | tuple | range)]
    if name == "replace" and len(sizes) == 3:
        del sizes[1]  # what is replaced makes nothing longer
    *_, second, first = sorted([1, 1, *sizes, *numbers])
    _BUDGET.allow(first * second)
    return tuple(args)


def _check_repetition(value: Any, times: Any) -> None:
    if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
        _BUDGET.allow(len(value) * times * (1 if isinstance(value, str | bytes) else _ELEMENT))


def _check_percent(text: Any, values: Any) -> None:
    if isinstance(text, bytes):
        raise jinja2.exceptions.SecurityError("bytes are not formatted in chat templates")
    if isinstance(text, str):
        if _LONG_FIELD.search(text):
            raise OverBudget("the chat template formats a value to more than 999 places.", hint=_HINT)
        _BUDGET.charge(text.count("%") * (_FIELD + _weight(values)))


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise OverBudget(f"the chat template computes a number of more than {_BITS:,} bits.", hint=_HINT)


def _charge(value: Any) -> None:
    if isinstance(value, str | bytes):
        _BUDGET.charge(len(value))
    elif isinstance(value, list | tuple | dict | set | frozenset):
        _BUDGET.charge(_weight(value))
    elif isinstance(value, int):
        _check_bits(value.bit_length())


def _weight(value: Any) -> int:
    """Characters that a value would have if it were written out: what is in it twice counts twice."""
    weight, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str | bytes):
            weight += len(item)
        elif isinstance(item, dict):
            waiting += item
            waiting += item.values()
            weight += 2 * _ELEMENT * len(item)
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
            weight += _ELEMENT * len(item)
        else:
            continue
        _BUDGET.step()
        _BUDGET.allow(weight)
    return weight


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """transformers' filter of the name: JSON as it is, not escaped for HTML."""
    spaces = [len(each) if isinstance(each, str) else each for each in (indent, *(separators or ()))]
    if any(space is not None and space > 64 for space in spaces):
        raise OverBudget("the chat template indents JSON by more than 64 characters.", hint=_HINT)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)
