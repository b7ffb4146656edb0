"""Ways to put prompts to a target: through its chat template, without, without its generation prompt, with thinking off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.answers.prompts import Prompt
from frspec_cli.answers.records import Answer
from frspec_cli.models.target import Target
from frspec_cli.tokens.rendering import Renderer
from frspec_cli.tokens.template import ChatTemplate

_THINKING = "enable_thinking"
_ASKED = [{"role": "user", "content": "frspec"}]


def other_ways(target: Target, prompts: Sequence[Prompt]) -> dict[str, list[TokenizedPrompt]]:
    """The same prompts as a head may have been trained on them, by that way in words; {} for a target without a template.

    A way that changes no prompt is left out, and so are conversations where there is no template for them.
    """
    if not target.is_chat:
        return {}
    ways: dict[str, list[tuple[Prompt, list[int]]]] = {
        "without the chat template": [
            (each, target.prompt_ids(each.text, raw=True)) for each in prompts if not each.messages
        ],
        "without the generation prompt": [(each, _rendered(target, each, generate=False)) for each in prompts],
    }
    if _THINKING in target.processor.get_chat_template():
        off = {_THINKING: False}
        ways["with thinking off"] = [(each, _rendered(target, each, arguments=off)) for each in prompts]
    usual = {each.id: _rendered(target, each) for each in prompts}
    return {
        way: [TokenizedPrompt(each.id, each.text, tuple(ids), each.category, each.messages) for each, ids in put]
        for way, put in ways.items()
        if any(ids != usual[each.id] for each, ids in put)
    }


def generation_prompt(target: Target, answers: Sequence[Answer]) -> dict[str, Any] | None:
    """How many recorded prompts end as the chat template ends them; None if it ends them in nothing of its own.

    text: the generation prompt. share: of the prompts that end in it, with thinking on or off.
    """
    if not target.is_chat:
        return None
    bare = target.chat_ids(_ASKED, generate=False)
    ends = []
    for arguments in ({}, {_THINKING: False}, {_THINKING: True}):
        whole = target.chat_ids(_ASKED, arguments=arguments)
        if whole[: len(bare)] == bare and len(whole) > len(bare):
            ends.append(whole[len(bare) :])
    if not ends:
        return None
    found = sum(
        any(answer.ids[: answer.prompt_length][-len(end) :].tolist() == end for end in ends) for answer in answers
    )
    return {"text": target.processor.decode(ends[0]), "share": found / len(answers)}


def _rendered(target: Target, prompt: Prompt, **how: Any) -> list[int]:
    if not prompt.messages:
        return target.chat_ids([{"role": "user", "content": prompt.text}], **how)
    renderer = Renderer(ChatTemplate(target.processor.get_chat_template()))
    return target.chat_ids([renderer.fields(message) for message in prompt.messages], **how)
