"""`auto`: the dtype and the draft tree that this machine wants, or plain decoding where no tree pays.

What a user has chosen stays. For the rest, in this order: a tune that was named, the last tune of this model on this
machine, an estimate from a probe of the device and the head's recorded acceptance length, a safe small tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.environment import machine
from frspec_cli.heads.files import locate_head
from frspec_cli.heads.options import MODULES
from frspec_cli.models.identity import folder_identity
from frspec_cli.models.locate import locate_model
from frspec_cli.models.shipped import shipped_for
from frspec_cli.models.target import resolve_device
from frspec_cli.replay.options import MTP_TREE
from frspec_cli.storage import sha256_file
from frspec_cli.tuning.acceptance import lengths_at, recorded_length, scaled, shape
from frspec_cli.tuning.options import AUTO, SAFE_TREE, SURE_OF_ESTIMATE, SURE_OF_MEASUREMENT, TreeChoice
from frspec_cli.tuning.predict import Way, predict
from frspec_cli.tuning.probe import Probe, candidates, estimate, probe_for
from frspec_cli.tuning.shapes import HeadShape, ModelShape, head_digest
from frspec_cli.tuning.tune_file import About, TuneFile, cached_path, check_fits, other_machine, read_tune

_CONTEXT = 256
"""Tokens of text that an estimate stands behind."""


@dataclass(frozen=True)
class Wanted:
    """What a user has chosen.

    method: None for whatever is fastest.
    dtype: `auto`, or a dtype's name.
    tree: as far as it is chosen.
    draft, vocab, k: as `load_pipeline` takes them.
    config: a file that `tune` wrote; None for none.
    drafts: whether the user asked for what only a draft has, so that plain decoding is no answer.
    """

    model: str
    method: str | None = None
    dtype: str = AUTO
    tree: TreeChoice = field(default_factory=TreeChoice)
    draft: str | None = None
    vocab: str | None = None
    k: int | None = None
    device: str | None = None
    compiled: bool = False
    config: Path | None = None
    drafts: bool = False


@dataclass(frozen=True)
class Choice:
    """What is used, and why.

    method: None to leave it to what is available.
    k: None for the subset's own size.
    source: given (by the user), config, tune, probe or default.
    rate, plain: tokens per second that the choice and plain decoding were predicted or measured to have; None if unknown.
    why: a sentence without its full stop.
    slower: whether plain decoding would be faster than what was asked for.
    """

    dtype: str
    tree: TreeConfig
    method: str | None
    k: int | None
    source: str
    why: str
    rate: float | None = None
    plain: float | None = None
    slower: bool = False

    def as_json(self) -> dict[str, Any]:
        """What a result records of it."""
        rates = {"tokens_per_second": self.rate, "plain_tokens_per_second": self.plain}
        return {"source": self.source, "why": self.why, **rates}


def choose(
    wanted: Wanted, *, say: Callable[[str], None] = lambda text: None, warn: Callable[[str], None] = lambda text: None
) -> Choice:
    """The choice for what is wanted. say: sentences for the user; warn: those that must be seen.

    Raises `FrspecError` if the model cannot be found, or a named tune is of another model, head or subset.
    """
    if wanted.config is None and wanted.dtype != AUTO and (wanted.tree.tree is not None or not _drafts(wanted)):
        tree = wanted.tree.over(_small(wanted))
        return Choice(wanted.dtype, tree, wanted.method, wanted.k, "given", "dtype and tree were given")
    device = str(resolve_device(wanted.device))
    found = _Files.of(wanted)
    if wanted.config is None and wanted.dtype != AUTO and not found.drafts:
        return Choice(
            wanted.dtype, wanted.tree.over(SAFE_TREE), wanted.method, wanted.k, "given", "the dtype was given"
        )
    tune = _tune(wanted, found, device, warn)
    if tune is not None:
        source, file = ("config", wanted.config) if wanted.config else ("tune", None)
        ways, sure = _tuned_ways(tune, wanted, found.drafts), SURE_OF_MEASUREMENT
        why = f"{file} says so" if file else "the last frspec tune on this machine says so"
    elif device.startswith(("cpu", "cuda")) and wanted.dtype in (AUTO, *candidates(device)):
        source, sure, why = "probe", SURE_OF_ESTIMATE, "estimated from a probe of this machine"
        ways = _estimated_ways(wanted, found, device, say)
    else:
        what = device if wanted.dtype == AUTO else f"{wanted.dtype} on {device}"
        source, sure, why, ways = "default", SURE_OF_ESTIMATE, f"nothing is known about {what}", []
    choice = _pick(wanted, ways, drafts=found.drafts, sure=sure, source=source, why=why)
    return replace(choice, k=wanted.k) if choice.k == found.rows() else choice


def probe_of(model: str, device: str, *, say: Callable[[str], None] = lambda text: None) -> Probe:
    """The probe of this device for a model's shape."""
    return probe_for(ModelShape.of(model, locate_model(model)), device, say=say)


def fastest_dtype(model: str, *, rows: int, device: str | None, say: Callable[[str], None] = lambda text: None) -> str:
    """The dtype whose products of so many rows are the fastest: for work without a draft tree."""
    placed = str(resolve_device(device))
    choices = candidates(placed)
    if len(choices) == 1:
        return choices[0]
    probe = probe_of(model, placed, say=say)
    return min(probe.dtypes, key=lambda dtype: probe.product_ms(dtype, rows, 1))


@dataclass(frozen=True)
class _Files:
    """What a user's names mean.

    head, subset: None if there is none, or no method that reads it.
    module: whether the target's own MTP modules draft, of whose cost and acceptance nothing is known beforehand.
    """

    model: Path
    head: Path | None
    subset: Path | None
    k: int | None
    module: bool = False

    @staticmethod
    def of(wanted: Wanted) -> _Files:
        model = locate_model(wanted.model)
        if not _drafts(wanted):
            return _Files(model, None, None, None)
        shipped = shipped_for(wanted.model)
        module = wanted.draft in MODULES
        named = locate_head(wanted.draft) if wanted.draft and not module else None
        head = None if module else named or shipped.head
        if wanted.vocab is not None:
            return _Files(model, head, Path(wanted.vocab), wanted.k, module)
        return _Files(model, head, shipped.subset, wanted.k or (shipped.k if shipped.subset else None), module)

    @property
    def drafts(self) -> bool:
        return self.head is not None or self.module

    def about(self) -> About:
        """The digests that a tune of these files records."""
        subset = self.subset if self.subset is not None and self.subset.is_file() else None
        return About(
            model=folder_identity(self.model),
            head=None if self.head is None else head_digest(self.head),
            subset=None if subset is None else sha256_file(subset),
        )

    def rows(self) -> int | None:
        """Rows of the subset that are used; None without a subset."""
        if self.subset is None or self.k is not None:
            return self.k
        from frspec_cli.subsets.subset import VocabularySubset

        return VocabularySubset.read(self.subset).k


def about(wanted: Wanted) -> About:
    """The digests of the files that a user's names mean."""
    return _Files.of(wanted).about()


def _small(wanted: Wanted) -> TreeConfig:
    """The tree if nothing is known: lookup drafts a chain, whose length costs next to nothing to draft; MTP modules draft
    chains in every engine, and several of them nothing else."""
    if wanted.method == "lookup":
        return TreeConfig()
    return MTP_TREE if wanted.draft in MODULES else SAFE_TREE


def _drafts(wanted: Wanted) -> bool:
    return wanted.method in (None, "eagle", "frspec")


def _tune(wanted: Wanted, found: _Files, device: str, warn: Callable[[str], None]) -> TuneFile | None:
    """The tune that was named, or the last one of these files here; None if there is neither."""
    import torch

    here = machine()
    if wanted.config is not None:
        tune = read_tune(wanted.config)
        check_fits(tune, found.about(), file=wanted.config, drafts=found.drafts)
        if difference := other_machine(tune.environment, here):
            warn(f"{wanted.config} was tuned on another machine ({difference}): frspec tune measures this one.")
        elif (made_with := tune.environment.get("torch")) != torch.__version__:
            warn(f"{wanted.config} was tuned with torch {made_with}, here {torch.__version__}.")
        return tune
    if not found.drafts:
        return None
    path = cached_path(found.about(), here, torch=torch.__version__, device=device, compiled=wanted.compiled)
    return read_tune(path) if path.is_file() else None


def _tuned_ways(tune: TuneFile, wanted: Wanted, drafts: bool) -> list[Way]:
    """The measured ways that leave what was chosen as it is; if those have no tree, the predicted ones too."""
    measured = [record.way for record in tune.ways]
    fitting = [way for way in measured if _fits(way, wanted)]
    if not drafts or any(way.tree is not None for way in fitting):
        return fitting
    sizes = sorted({point.k for point in tune.acceptance} | ({wanted.k} if wanted.k else set()))
    acceptance = {k: _with_given(lengths_at(tune.acceptance, k), wanted) for k in sizes}
    ways = predict(tune.costs.costs, acceptance, context=tune.context, methods=_methods(wanted))
    return [way for way in ways if _fits(way, wanted)]


def _estimated_ways(wanted: Wanted, found: _Files, device: str, say: Callable[[str], None]) -> list[Way]:
    """Every way that the probe of this device and the head's recorded acceptance predict."""
    model = ModelShape.of(wanted.model, found.model)
    probe = probe_for(model, device, say=say)
    head = None if found.head is None else HeadShape.of(found.head, vocabulary=model.rows, hidden=model.hidden)
    costs = estimate(probe, model, head, compiled=wanted.compiled)
    if head is None or found.head is None:
        return [way for way in predict(costs, {}, context=_CONTEXT, methods=()) if _fits(way, wanted)]
    length = recorded_length(found.head)
    lengths = {} if length is None else scaled(shape(), TreeConfig(), length)
    # Above what was probed a row's cost is a guess.
    lengths = {tree: value for tree, value in lengths.items() if tree.nodes <= 16}
    full = costs[0].k
    sizes = {"frspec": found.rows(), "eagle": full}
    methods = [wanted.method] if wanted.method else ["frspec" if found.subset is not None else "eagle"]
    acceptance = {k: _with_given(lengths, wanted) for method in methods if (k := sizes[method]) is not None}
    return [way for way in predict(costs, acceptance, context=_CONTEXT, methods=methods) if _fits(way, wanted)]


def _methods(wanted: Wanted) -> Sequence[str]:
    return (wanted.method,) if wanted.method else ("frspec", "eagle")


def _with_given(lengths: dict[TreeConfig, float], wanted: Wanted) -> dict[TreeConfig, float]:
    """The lengths with a tree that the user gave: which dtype is fastest for it does not depend on its length."""
    tree = wanted.tree.tree
    return lengths if tree is None else {tree: lengths.get(tree, 1.0)}


def _fits(way: Way, wanted: Wanted) -> bool:
    """Whether a way leaves what was chosen as it is."""
    if wanted.dtype not in (AUTO, way.dtype):
        return False
    if way.tree is None:
        return True
    if wanted.k is not None and way.method == "frspec" and way.k != wanted.k:
        return False
    return wanted.method in (None, way.method) and wanted.tree.allows(way.tree)


def _pick(wanted: Wanted, ways: Sequence[Way], *, drafts: bool, sure: float, source: str, why: str) -> Choice:
    """The fastest of the ways; plain decoding where no tree is surely faster and the user asked for none."""
    plain = max((way for way in ways if way.tree is None), key=lambda way: way.rate, default=None)
    best = max((way for way in ways if way.tree is not None), key=lambda way: way.rate, default=None)
    tree = wanted.tree.over(_small(wanted) if best is None or best.tree is None else best.tree)
    if best is None:
        dtype = wanted.dtype if wanted.dtype != AUTO else plain.dtype if plain is not None else "bfloat16"
        reason = "a safe small tree, for nothing is known about this head" if drafts else why
        return Choice(dtype, tree, wanted.method, wanted.k, source if plain else "default", reason)
    rates = {"rate": round(best.rate, 2), "plain": None if plain is None else round(plain.rate, 2)}
    pays = plain is None or best.rate >= sure * plain.rate
    if pays or wanted.method is not None or wanted.tree.given or wanted.drafts:
        return Choice(
            best.dtype,
            tree,
            wanted.method or best.method,
            wanted.k or _size(best),
            source,
            why,
            **rates,
            slower=not pays,
        )
    assert plain is not None
    reason = (
        f"no draft tree pays here ({why}): {plain} {plain.rate:.1f} tokens/s, the best tree ({best}) {best.rate:.1f}"
    )
    return Choice(plain.dtype, tree, "ar", wanted.k, source, reason, rate=rates["plain"], plain=rates["plain"])


def _size(way: Way) -> int | None:
    return way.k if way.method == "frspec" else None
