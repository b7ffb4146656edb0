"""From what a user names (model, draft head, subset, method) to an engine that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from frspec_cli.decoding.compiling import Compiler
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.drafters import Drafter, EagleDrafter, LookupDrafter, NoDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import METHODS, Method, TreeConfig
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.shipped import shipped_for
from frspec_cli.models.target import Target
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Pipeline:
    """A target with the draft head and the subset that go with it; one target serves all methods.

    draft, vocab: what the user named (or what frspec ships for the model), None where there is none. compiler: compiles
    the steps of target and draft, None runs them as they are.
    """

    target: Target
    head: EagleHead | None = None
    subset: VocabularySubset | None = None
    draft: str | None = None
    vocab: str | None = None
    compiler: Compiler | None = None

    def default_method(self) -> Method:
        """frspec where a head and a subset are at hand, else the best that can run."""
        if self.head is None:
            return "ar"
        return "frspec" if self.subset is not None else "eagle"

    def engine(self, method: Method, *, shape: TreeConfig, k: int | None = None, context_slots: int = 0) -> Engine:
        """The engine of one method; arguments and errors as `drafter` has them."""
        drafter = self.drafter(method, shape=shape, k=k, context_slots=context_slots)
        return Engine(self.target, drafter, compiler=self.compiler)

    def drafter(self, method: Method, *, shape: TreeConfig, k: int | None = None, context_slots: int = 0) -> Drafter:
        """The drafter of one method. k, context_slots (frspec only): a prefix of the subset; spare rows for the text's
        own tokens. Raises `FrspecError` when the head or the subset that it needs is missing.
        """
        match method:
            case "ar":
                return NoDrafter()
            case "lookup":
                return LookupDrafter(shape.depth)
            case "eagle":
                head = self._head(method)
                return EagleDrafter(head, head.own_lm_head or self.target.lm_head, shape, compiler=self.compiler)
            case "frspec":
                head = self._head(method)
                if self.subset is None:
                    raise FrspecError(
                        "--method frspec needs a vocabulary subset.",
                        hint="Name one with --vocab, or build one: frspec count-freq, then frspec build-vocab.",
                    )
                rows = self._rows(head, self.subset.prefix(k) if k else self.subset)
                full = head.own_lm_head or self.target.lm_head
                slots = ContextSlots(rows, full, context_slots) if context_slots else None
                return EagleDrafter(head, rows, shape, slots=slots, compiler=self.compiler)
            case _:
                raise UsageError(f"--method {method} is not one of {', '.join(METHODS)}.")

    def draft_lm_head(self, drafter: Drafter) -> dict[str, int] | None:
        """What a drafter reads each draft step: rows and bytes of its LM head (a subset's rows are a copy of their own),
        and the bytes of the full head that it would read otherwise. None where it has no LM head.
        """
        if self.head is None or not isinstance(drafter, EagleDrafter):
            return None
        full = self.head.own_lm_head or self.target.lm_head
        return {"rows": drafter.lm_head.size, "bytes": drafter.lm_head.bytes, "full_bytes": full.bytes}

    def _head(self, method: Method) -> EagleHead:
        if self.head is None:
            raise FrspecError(
                f"--method {method} needs a draft head.",
                hint="Name one with --draft, or train one: frspec collect, then frspec train-draft.",
            )
        return self.head

    def _rows(self, head: EagleHead, subset: VocabularySubset) -> LmHead:
        ids = torch.from_numpy(subset.token_ids.astype("int64"))
        if head.own_lm_head is None:
            return self.target.lm_head.rows(ids)
        return head.own_lm_head.restrict(ids)


def load_pipeline(
    target: Target,
    *,
    draft: str | None = None,
    vocab: str | None = None,
    k: int | None = None,
    compiler: Compiler | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Pipeline:
    """Loads head and subset for a target; where the user names neither, what frspec ships for the model is taken.

    k: the size of the subset's prefix; default all of a user's subset, the usual size of a shipped one. warn: told when the
    subset's tokenizer is another one that agrees on the subset's ids. Raises `FrspecError` for files that do not fit.
    """
    shipped = shipped_for(target.name)
    draft = draft or (str(shipped.head) if shipped.head else None)
    if vocab is None and shipped.subset is not None:
        vocab, k = str(shipped.subset), k or shipped.k
    head = None
    if draft is not None:
        head = load_head(
            draft,
            target_config=target.config,
            embedding_weight=target.embedding,
            device=target.device,
            dtype=target.dtype,
        )
    subset = None
    if vocab is not None:
        tokenizer = load_tokenizer(str(target.folder))
        subset = load_subset(vocab, tokenizer=tokenizer, model_rows=target.rows, k=k, warn=warn)
    return Pipeline(target=target, head=head, subset=subset, draft=draft, vocab=vocab, compiler=compiler)
