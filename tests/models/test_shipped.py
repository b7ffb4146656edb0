from __future__ import annotations

import tomllib

import pytest

from frspec_cli.models.shipped import DEFAULT_MODEL, shipped_for
from tests.conftest import ROOT


@pytest.mark.parametrize(("model", "k"), [(DEFAULT_MODEL, 8192), ("gemma3-270m", 16384)])
def test_a_shipped_model_has_head_and_subset_of_its_usual_size(model, k):
    shipped = shipped_for(model)
    assert shipped.head is not None
    assert shipped.subset is not None
    assert shipped.k == k


def test_nothing_is_shipped_for_other_names():
    assert shipped_for("meta-llama/Llama-3.2-1B-Instruct").head is None
    assert shipped_for("../smollm2-135m").head is None


def test_what_is_under_gemmas_terms_stays_out_of_wheel_and_sdist():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert not any("gemma" in path for path in targets["wheel"]["force-include"])
    assert "/data/gemma3-270m" in targets["sdist"]["exclude"]
    notice = (ROOT / "data" / "gemma3-270m" / "NOTICE").read_text()
    assert "Gemma Terms of Use found at ai.google.dev/gemma/terms" in notice
