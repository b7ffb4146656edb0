"""From figures to sentences: what is wrong with a head, and what to try next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from frspec_cli.doctor.options import SMALLEST_GROUP, SURE, WIDE
from frspec_cli.errors import option

_REPEATS = 0.1  # a text that repeats itself by so much more is drafted more easily by any head
_KEPT = 0.97


def faults(result: dict[str, Any]) -> list[dict[str, str]]:
    """What is wrong, most telling first: of each fault its `cause`, `what` it is and what to `do`.

    cause: a reading's (see `Reading`), target, tokenizer, rows, template, training_data, subset, task, language or domain.
    """
    found = [*_readings(result), *_target(result), *_prompts(result)]
    if result["verdict"] != "target":
        found += [*_subset(result["ceilings"]), *_groups(result["groups"])]
        found += [] if found else _domain(result)
    return [{"cause": cause, "what": what, "do": do} for cause, what, do in found]


def next_steps(result: dict[str, Any]) -> list[str]:
    """What to do, most useful first."""
    steps = [fault["do"] for fault in result["faults"]]
    if result["verdict"] != "target":
        steps += [*_unsure(result), *_limits(result)]
    return list(dict.fromkeys(steps))


Fault = tuple[str, str, str]


def _readings(result: dict[str, Any]) -> Iterator[Fault]:
    for change in result["changes"]:
        what = change["what"]
        if change["ties"]:
            what += f" (or {', or '.join(change['ties'])}: these answers cannot tell)"
        yield change["cause"], what, f"Read it so that {what}: {_times(change['times'])} as much is accepted."


def _target(result: dict[str, Any]) -> Iterator[Fault]:
    checks, nearest = result["checks"], result["checks"]["nearest_rows"]
    if checks["target_weights"] is False:
        what = "the head records that it was made for a target with other weights"
        yield "target", what, f"{_sentence(what)}: use that target, or train it on from there ({option('init')})."
    if checks.get("tokenizer") is False:
        what = "the head records that it was made with another tokenizer"
        yield "tokenizer", what, f"{_sentence(what)}: use that tokenizer, for its tokens are others than the target's."
    if checks["embedding_cosine"] is not None and checks["embedding_cosine"] < 0.9:
        what = "the head brings an embedding that is not the target's"
        yield "target", what, f"{_sentence(what)}: it was made for another target. Use that one."
    if nearest is not None and nearest["foreign"]:
        what = f"only {nearest['share']:.0%} of its LM head's rows are nearest to the target's row of their own token"
        yield "rows", what, f"{_sentence(what)}: they belong to other tokens. Get the map (d2t) that was made with it."
    if result["verdict"] == "target":
        what = "no reading drafts"
        if nearest is not None and not nearest["foreign"] and nearest["share"] < 0.5:
            what += ", and its LM head's rows resemble none of the target's"
        yield (
            "target",
            what,
            f"{_sentence(what)}: it is untrained, or of another target or tokenizer, or these prompts are nothing like what "
            "it was trained on. Compare tokenizers and weights, then train it on this target's own answers.",
        )


def _prompts(result: dict[str, Any]) -> Iterator[Fault]:
    """Prompts that are put otherwise than in training, and answers that were trained on."""
    generation = result["checks"].get("generation_prompt")
    if generation is not None and generation["share"] < 0.5:
        what = (
            f"only {generation['share']:.0%} of the recorded prompts end as the model's chat template ends them "
            f"({generation['text']!r})"
        )
        yield (
            "template",
            what,
            f"{_sentence(what)}: put them to the model as it is served, and train it on such answers. If prompts are given "
            "in place of recorded answers, both ways are tried.",
        )
    for name, found in result["prompts"].items():
        times = found["times"]
        if times is None or times["low"] <= 1 or times["value"] < SURE:
            continue
        more, usual = found["repeated_4grams"], found["usual_4grams"]
        what = f"it accepts {_times(times)} as much {name}"
        if more > usual + _REPEATS:
            continue  # such answers repeat themselves, and any head drafts that
        do = f"{_sentence(what)}: it was trained so. Put prompts likewise, or train it on answers to them as you serve them."
        yield "template", what, do
    if name := result["checks"].get("trained_on"):
        what = f"its card says that it was trained on {name}"
        yield (
            "training_data",
            what,
            f"{_sentence(what)}: such answers flatter it. {option('held_out')} uses those it never saw.",
        )


def _subset(ceilings: dict[str, Any]) -> Iterator[Fault]:
    over = ceilings.get("own_over_subset")
    if over is not None and over["low"] > 1 and over["value"] >= SURE:
        what = f"the subset does not fit these texts: one of their own tokens, as large, accepts {_times(over)} as much"
        yield (
            "subset",
            what,
            f"{_sentence(what)}. Count your own traffic: frspec count-freq ANSWERS {option('assistant_only')}, then frspec "
            "build-vocab.",
        )


def _groups(groups: dict[str, dict[str, Any]]) -> Iterator[Fault]:
    """A group whose interval lies below all of another's is off the head's domain; small ones say nothing."""
    for by, all_groups in groups.items():
        found = {name: each for name, each in all_groups.items() if each["answers"] >= SMALLEST_GROUP}
        if len(found) < 2:
            continue
        best = max(found, key=lambda name: found[name]["acceptance"]["value"])
        worst = min(found, key=lambda name: found[name]["acceptance"]["value"])
        high, low = found[best], found[worst]
        if low["acceptance"]["high"] < high["acceptance"]["low"]:
            what = (
                f"by {by}, {worst or '(none)'} has {low['acceptance']['value']:.2f} ({low['answers']} answers) where "
                f"{best or '(none)'} has {high['acceptance']['value']:.2f} ({high['answers']})"
            )
            yield by, what, f"{_sentence(what)}: the head knows {worst or 'it'} less. Train it on such prompts."


def _domain(result: dict[str, Any]) -> Iterator[Fault]:
    """All of the prompts may be off it: then less is accepted than where it was trained."""
    recorded, now = result["checks"]["recorded_acceptance"], result["as_served"]
    if recorded is None or now is None or not result["usual_tree"] or now["high"] >= 0.9 * recorded:
        return
    here = f"{now['value']:.2f} ({now['low']:.2f} to {now['high']:.2f})"
    what = f"it accepts {here} here, and {recorded:.2f} in its training's validation"
    do = f"{_sentence(what)}: these prompts are unlike those. Train it on answers to yours: {option('init')} HEAD."
    yield "domain", what, do


def _unsure(result: dict[str, Any]) -> Iterator[str]:
    """What more answers would tell."""
    rows = [row for row in result["around"] if row["says"] == "perhaps"]
    for row in rows:
        yield f"Perhaps {row['what']}: {_times(row['times'])} as much, maybe by chance. Try more answers ({option('limit')})."
    open_questions = [row for row in result["around"] if row["answers_needed"] and row["times"]["high"] >= SURE]
    if open_questions and not rows:
        row = max(open_questions, key=lambda row: row["times"]["high"])
        count = _rounded(row["answers_needed"])
        yield (
            f"Open is whether {row['what']} ({_times(row['times'])} as much): about {count:,} answers would tell "
            f"({option('limit')} {count})."
        )


def _limits(result: dict[str, Any]) -> Iterator[str]:
    ceilings, limits = result["ceilings"], result["limits"]
    if (subset := ceilings.get("subset")) and subset["high"] < _KEPT:
        yield f"The subset keeps {subset['value']:.1%} of the acceptance: a larger one keeps more."
    if (wide := ceilings.get("wide_tree")) and wide["low"] > 1.05:
        yield (
            f"A tree of depth {WIDE.depth}, beam {WIDE.beam} and {WIDE.nodes} nodes accepts {_times(wide)} as much. What pays "
            "on your machine: frspec tune."
        )
    if limits["beam"] >= max(limits.values()):
        yield (
            f"{limits['beam']:.0%} of cycles end because the head ranks the right token too low: only a better head helps, "
            "trained longer or on more of the target's own answers."
        )


def _rounded(count: int) -> int:
    """Up, to two digits."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def _sentence(what: str) -> str:
    return what[:1].upper() + what[1:]


def _times(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} times ({found['low']:.2f} to {found['high']:.2f})"
