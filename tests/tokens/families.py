"""Chat templates in the shape of ten families, written anew, and by hand what the assistant says under each.

An oracle gets the turns up to and including an assistant's and returns (the end of what stands before it, from a special
token on; what the assistant said), or None if the template drops a part of the turn or refuses the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Turns = list[dict[str, Any]]
Oracle = Callable[[Turns], tuple[str, str] | None]


@dataclass(frozen=True)
class Family:
    """template: Jinja. eos: its end-of-sequence token. special: all special tokens."""

    template: str
    eos: str
    special: tuple[str, ...]
    oracle: Oracle


def _call(turn: dict[str, Any]) -> tuple[str, Any]:
    function = turn["tool_calls"][0]["function"]
    return function["name"], function["arguments"]


def _alternates(turns: Turns) -> bool:
    rest = turns[1:] if turns[0]["role"] == "system" else turns
    return all((turn["role"] == "user") == (index % 2 == 0) for index, turn in enumerate(rest))


def _only_content(turn: dict[str, Any]) -> bool:
    return not turn.get("reasoning_content") and not turn.get("tool_calls")


def _split_thoughts(turn: dict[str, Any], opened: str = "") -> tuple[str, str] | None:
    """(reasoning, content) as Qwen's and GLM's templates take them from the content; None if that drops or adds text.

    opened: the beginning of the reasoning, if the prompt ends in it.
    """
    content = turn["content"] or ""
    if turn.get("reasoning_content"):
        return turn["reasoning_content"], content
    if "</think>" not in content:
        return "", content
    first, last = content.split("</think>")[0], content.split("</think>")[-1]
    begun = first.startswith("<think>") or (opened and "<think>" not in first)
    if content.count("</think>") > 1 or first.count("<think>") > 1 or not begun:
        return None
    return first.rstrip("\n").split("<think>")[-1].lstrip("\n"), last.lstrip("\n")


_QWEN_CALLS = """
{%- for call in message.tool_calls or [] %}{% if (loop.first and content) or not loop.first %}{{ '\\n' }}{% endif %}
{%- set call = call.function or call %}{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{ call.arguments }}{% else %}{{ call.arguments | tojson }}{% endif %}
{{- '}\\n</tool_call>' }}{% endfor %}"""

_QWEN = """
{%- if messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}
{%- set ns = namespace(last=messages | length - 1, found=false) %}
{%- for message in messages[::-1] %}{% if message.role == 'user' and not ns.found %}
{%- set ns.found = true %}{% set ns.last = messages | length - 1 - loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}{% if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}{% set content = message.content %}{% set reasoning = '' %}
{%- if message.reasoning_content is string %}{% set reasoning = message.reasoning_content %}
{%- elif '</think>' in message.content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>assistant\\n' }}{% if loop.index0 > ns.last and (loop.last or reasoning) %}
{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}
@CALLS@{{ '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n@OPEN@' }}{% endif %}"""


def _qwen(opened: str) -> Oracle:
    def oracle(turns: Turns) -> tuple[str, str] | None:
        turn = turns[-1]
        parts = _split_thoughts(turn, opened)
        thinks = bool(turn.get("reasoning_content")) or "</think>" in (turn["content"] or "")
        asked = any(other["role"] == "user" for other in turns)
        if len(turns) == 1 or parts is None or (thinks and not asked):
            return None
        before, thought = turns[-2], turns[-2].get("reasoning_content") or "</think>" in (turns[-2]["content"] or "")
        if before["role"] == "assistant" and asked and not thought:
            return None  # as the last of the prompt it has an empty block, with another after it it has none
        reasoning, content = parts
        calls = ""
        if turn.get("tool_calls"):
            name, arguments = _call(turn)
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            separator = "\n" if content else ""
            calls = f'{separator}<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'
        shown = (content.lstrip("\n") if asked else content) + calls + "<|im_end|>"
        if thinks:
            rest = reasoning.strip("\n") + "\n</think>\n\n" + shown
            return f"<|im_start|>assistant\n{opened}", rest if opened else f"<think>\n{rest}"
        return "<|im_start|>assistant\n" + ("<think>\n\n</think>\n\n" if asked else ""), shown

    return oracle


_R1 = """{{ bos_token }}
{%- for message in messages %}{% if message.role == 'system' %}{{ message.content }}{% endif %}{% endfor %}
{%- for message in messages %}{% if message.role == 'user' %}{{ '<|User|>' + message.content }}
{%- elif message.role == 'assistant' and message.content is none %}{% set call = message.tool_calls[0] %}
{{- '<|Assistant|><|calls|>' + call.type + '<|sep|>' + call.function.name + '\\n```json\\n' + call.function.arguments }}
{{- '\\n```<|/calls|>' + eos_token }}
{%- elif message.role == 'assistant' %}{% set content = message.content %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|Assistant|>' + content + eos_token }}
{%- elif message.role == 'tool' %}{{ '<|output|>' + message.content }}{% endif %}{% endfor -%}
{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""


def _r1(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    content = turn["content"] or ""
    if turn.get("reasoning_content") or content.split("</think>")[:-1]:
        return None
    if turn.get("tool_calls"):
        if content:
            return None
        name, arguments = _call(turn)
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return "<|Assistant|>", f"<|calls|>function<|sep|>{name}\n```json\n{text}\n```<|/calls|><|eos|>"
    return "<|Assistant|>", content + "<|eos|>"


_SMOLLM = """{% for message in messages %}{% if message.role == 'assistant' %}{%- generation -%}
{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}
{{- message.content.lstrip('\\n') + '<|im_end|>\\n' }}{%- endgeneration -%}
{% else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def _smollm(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    return ("<|im_start|>assistant\n", turn["content"].lstrip("\n") + "<|im_end|>") if _only_content(turn) else None


_MISTRAL = """{{ bos_token }}{% set first = 1 if messages[0].role == 'system' else 0 %}
{%- for message in messages[first:] %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if message.role == 'user' %}{{ '[INST] ' }}{% if loop.last and first %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- message.content + '[/INST]' }}{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"""


def _mistral(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    if not _only_content(turn) or not _alternates(turns) or turns[0]["role"] == "system":
        return None  # the system prompt moves on to the newest question: the prompt for a turn is not in its rendering
    return "[/INST]", f" {turn['content']}</s>"


_LLAMA = """{{ bos_token }}{% for message in messages %}{% if message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one tool call at once') }}{% endif %}
{%- set call = message.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- else %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content | trim + '<|eot_id|>' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""


def _llama(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    if turn.get("reasoning_content") or (turn.get("tool_calls") and (turn["content"] or "").strip()):
        return None
    if not turn.get("tool_calls"):
        return header, turn["content"].strip() + "<|eot_id|>"
    name, arguments = _call(turn)
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    return header, f'{{"name": "{name}", "parameters": {json.dumps(value, ensure_ascii=False)}}}<|eot_id|>'


_GEMMA = """{{ bos_token }}{% set first = 1 if messages[0].role == 'system' else 0 %}{% for message in messages[first:] %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{%- if first and loop.first %}{{ messages[0].content + '\\n\\n' }}{% endif %}
{{- message.content | trim }}{{ '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""


def _gemma(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    if not _only_content(turn) or not _alternates(turns):
        return None
    return "<start_of_turn>model\n", turn["content"].strip() + "<end_of_turn>"


_GLM = """[gMASK]<sop>{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' %}
{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}
{%- if message.role == 'assistant' %}{{ '<|assistant|>' }}{% set content = message.content or '' %}{% set reasoning = '' %}
{%- if message.reasoning_content is string %}{% set reasoning = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{%- if loop.index0 > ns.last and reasoning %}{{ '\\n<think>' + reasoning.strip() + '</think>' }}
{%- else %}{{ '\\n<think></think>' }}{% endif %}
{%- if content.strip() %}{{ '\\n' + content.strip() }}{% endif %}
{%- for call in message.tool_calls or [] %}{% set call = call.function %}{{ '\\n<tool_call>' + call.name }}
{%- for key, value in call.arguments.items() %}
{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' }}{{ value if value is string else value | tojson }}{{ '</arg_value>' }}
{%- endfor %}{{ '\\n</tool_call>' }}{% endfor %}
{%- else %}{{ '<|' + message.role + '|>\\n' + message.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def _glm(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    parts = _split_thoughts(turn)
    if parts is None:
        return None
    reasoning, content = parts[0].strip(), parts[1].strip()
    calls = ""
    if turn.get("tool_calls"):
        name, arguments = _call(turn)
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        items = "".join(
            f"\n<arg_key>{key}</arg_key>\n<arg_value>"
            f"{item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}</arg_value>"
            for key, item in value.items()
        )
        calls = f"\n<tool_call>{name}{items}\n</tool_call>"
    said = ("\n" + content if content else "") + calls
    if reasoning or "</think>" in (turn["content"] or ""):
        return "<|assistant|>", f"\n<think>{reasoning}</think>{said}"
    return "<|assistant|>\n<think></think>" + "\n" * bool(said), said.removeprefix("\n")


_GPT_OSS = """{% for message in messages %}{% if message.role == 'assistant' %}
{%- if 'tool_calls' in message %}{% set call = message.tool_calls[0].function %}
{%- if message.content and message.thinking %}{{ raise_exception('content and thinking') }}{% endif %}
{%- if message.content or message.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + (message.content or message.thinking) + '<|end|>' }}{% endif %}
{{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
{{- call.arguments | tojson }}{{ '<|call|>' }}
{%- elif loop.last and not add_generation_prompt %}
{%- if 'thinking' in message %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' }}
{%- else %}{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}{% endif %}
{%- else %}{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""


def _gpt_oss(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    reasoning, content = turn.get("reasoning_content") or "", turn["content"] or ""
    if any(each.get("tool_calls") and each.get("reasoning_content") and each["content"] for each in turns):
        return None
    analysis = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
    if not turn.get("tool_calls"):
        thoughts = analysis.format(reasoning) if reasoning else ""
        return "<|start|>assistant", f"{thoughts}<|channel|>final<|message|>{content}<|return|>"
    name, arguments = _call(turn)
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    thoughts = analysis.format(reasoning or content) if reasoning or content else ""
    call = f" to=functions.{name}<|channel|>commentary json<|message|>{json.dumps(value, ensure_ascii=False)}<|call|>"
    return "<|start|>assistant", thoughts + call


_PHI = """{% for message in messages %}{% if message.role in ['system', 'user', 'assistant'] %}
{{- '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""


def _phi(turns: Turns) -> tuple[str, str] | None:
    turn = turns[-1]
    return ("<|im_start|>assistant<|im_sep|>", turn["content"] + "<|im_end|>") if _only_content(turn) else None


_IM = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")


def _qwen_template(opened: str) -> str:
    return _QWEN.replace("@CALLS@", _QWEN_CALLS.strip()).replace("@OPEN@", opened.replace("\n", "\\n"))


FAMILIES = {
    "qwen3": Family(_qwen_template(""), "<|im_end|>", _IM, _qwen("")),
    "qwen3.5": Family(_qwen_template("<think>\n"), "<|im_end|>", _IM, _qwen("<think>\n")),
    "deepseek-r1": Family(
        _R1, "<|eos|>", ("<|User|>", "<|Assistant|>", "<|eos|>", "<think>", "<|calls|>", "<|/calls|>", "<|sep|>"), _r1
    ),
    "smollm3": Family(_SMOLLM, "<|im_end|>", _IM, _smollm),
    "mistral": Family(_MISTRAL, "</s>", ("[INST]", "[/INST]", "</s>"), _mistral),
    "llama-3.1": Family(_LLAMA, "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), _llama),
    "gemma-3": Family(_GEMMA, "<end_of_turn>", ("<start_of_turn>", "<end_of_turn>"), _gemma),
    "glm-4.5": Family(
        _GLM, "<|user|>", ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<think>", "</think>", "<tool_call>"), _glm
    ),
    "gpt-oss": Family(
        _GPT_OSS,
        "<|return|>",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
        _gpt_oss,
    ),
    "phi-4": Family(_PHI, "<|im_end|>", ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), _phi),
}
