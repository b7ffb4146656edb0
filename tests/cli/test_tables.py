"""What count-freq and merge say of a table."""

from __future__ import annotations

import pytest

from frspec_cli.cli.tables import _amount, _enough


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.0362, ", and about 3.6 points more if they were chosen from far more text: count more."),
        (0.0042, ", and about 0.4 points more if they were chosen from far more text."),
        (0.0004, "; far more text would hardly change that."),
    ],
)
def test_the_figures_are_put_into_words(loss, said) -> None:
    row = {"coverage": 0.92768, "expected_loss": loss}
    assert _enough("32768", row) == f"The 32,768 most frequent tokens would hold 92.8% of other text of this kind{said}"


@pytest.mark.parametrize(("size", "shown"), [(0, "0.0 kB"), (2345, "2.3 kB"), (163_400_000, "163.4 MB")])
def test_small_amounts_are_not_shown_as_nothing(size, shown) -> None:
    assert _amount(size) == shown
