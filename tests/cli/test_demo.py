"""What the demo says of its figures."""

from __future__ import annotations

from typing import Any

from frspec_cli.cli.demo import bars, verdict


def figures(total: float, verify: float, draft: float, cycles: int, tokens: int = 100) -> dict[str, Any]:
    return {
        "tokens_per_second": tokens / total,
        "new_tokens": tokens,
        "cycles": cycles,
        "acceptance_length": tokens / cycles,
        "seconds": {"total": total, "verify": verify, "draft": draft},
    }


METHODS = {
    "ar": figures(2.0, 1.8, 0.0, 100),
    "eagle": figures(1.5, 0.8, 0.6, 40),
    "frspec": figures(1.0, 0.7, 0.2, 45),
}


def test_bars_are_as_long_as_the_time_per_token() -> None:
    plain, eagle, frspec = bars(METHODS, 80)
    assert plain.split() == ["plain", "20.0", "█" * 54 + "·" * 6]
    assert eagle.split() == ["EAGLE-2", "15.0", "█" * 24 + "▒" * 18 + "·" * 3]
    assert frspec.split() == ["FR-Spec", "10.0", "█" * 21 + "▒" * 6 + "·" * 3]
    assert all(len(line) <= 40 for line in bars(METHODS, 40))


def test_the_verdict_says_what_was_gained() -> None:
    figures = "FR-Spec is 2.00x as fast as plain decoding and 1.50x as fast as EAGLE-2 here"
    summary: dict[str, Any] = {"methods": METHODS, "identical": True, "near_ties": []}
    assert verdict(summary) == f"{figures}, and writes the same text."
    summary["near_ties"] = [{"method": "frspec"}]
    assert verdict(summary) == (
        f"{figures}, and writes the same text except where two tokens are equally likely to within rounding."
    )


def test_or_why_nothing_was() -> None:
    slow = METHODS | {"frspec": figures(2.5, 2.0, 0.4, 50)}
    said = verdict({"methods": slow, "identical": True})
    assert said.startswith(
        "FR-Spec is 0.80x as fast as plain decoding and 0.60x as fast as EAGLE-2 here: a cycle costs 2.5 times"
    )
    assert "a plain token and gives 2.0 tokens" in said


def test_the_verdict_never_claims_a_text_that_differs() -> None:
    assert verdict({"methods": METHODS, "identical": False}).endswith("EAGLE-2 here, but the texts differ.")
