"""From what a user names (model, draft head, subset, method) to an engine that is ready to run, and to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from frspec_cli.decoding import compiling
from frspec_cli.decoding.attention import use_kernel
from frspec_cli.decoding.compiling import Compiler
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.drafters import Drafter, EagleDrafter, NoDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Cycle, Generation
from frspec_cli.decoding.lookup import LookupDrafter
from frspec_cli.decoding.modules_drafter import head_drafter
from frspec_cli.decoding.options import DEFAULTS, METHODS, GenerateOptions, Method, TreeConfig, check_method
from frspec_cli.decoding.text import TextStream
from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.heads.mtp import MtpModules, load_mtp
from frspec_cli.heads.options import MODULES, MTP_PRENORM
from frspec_cli.heads.row_check import foreign_rows
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.shipped import DEFAULT_MODEL, shipped_for
from frspec_cli.models.target import Target, load_target
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer

__all__ = ["METHODS", "Method", "Pipeline", "generate", "load_pipeline"]


@dataclass(frozen=True)
class Pipeline:
    """A target with the draft head and the subset that go with it; one target serves all methods.

    draft, vocab: what the user named (or what frspec ships for the model); None if there is none.
    compiler: compiles the steps of target and draft; None runs them as they are.
    """

    target: Target
    head: DraftHead | None = None
    subset: VocabularySubset | None = None
    draft: str | None = None
    vocab: str | None = None
    compiler: Compiler | None = None

    def default_method(self) -> Method:
        """frspec if a head and a subset are available, else the best that can run."""
        if self.head is None:
            return "ar"
        return "frspec" if self.subset is not None else "eagle"

    def generate(self, prompt: str, options: GenerateOptions = DEFAULTS) -> Generation:
        """Decodes the answer to one prompt: its `text`, ids and figures. Raises as `drafter` and `Engine.generate` do."""
        engine = self.engine(
            options.method or self.default_method(), tree=options.tree, context_slots=options.context_slots
        )
        prompt_ids = self.target.prompt_ids(prompt, raw=options.raw)
        return Generation.of(self.stream(engine, prompt_ids, options), prompt_tokens=len(prompt_ids))

    def stream(self, engine: Engine, prompt_ids: Sequence[int], options: GenerateOptions) -> Iterator[Cycle]:
        """The cycles of one text with the text that each adds."""
        return engine.generate(
            prompt_ids,
            max_new_tokens=options.max_new_tokens,
            sampling=options.sampling,
            ignore_eos=options.ignore_eos,
            text=TextStream(self.target.processor, prompt_ids, stop=options.stop),
        )

    def engine(self, method: Method, *, tree: TreeConfig, k: int | None = None, context_slots: int = 0) -> Engine:
        """The engine of one method; arguments and errors are those of `drafter`."""
        drafter = self.drafter(method, tree=tree, k=k, context_slots=context_slots)
        return Engine(self.target, drafter, compiler=self.compiler)

    def drafter(self, method: Method, *, tree: TreeConfig, k: int | None = None, context_slots: int = 0) -> Drafter:
        """The drafter of one method.

        k: use the subset's first k tokens; frspec only.
        context_slots: spare rows for the text's own tokens; frspec only.

        Raises `UsageError` if the method ignores an argument that was given, and `FrspecError` if the head or the subset
        that it needs is missing.
        """
        check_method(method, k=k, context_slots=context_slots)
        match method:
            case "ar":
                return NoDrafter()
            case "lookup":
                return LookupDrafter(tree.depth)
            case "eagle":
                head = self._head(method)
                return head_drafter(head, head.own_lm_head or self.target.lm_head, tree, compiler=self.compiler)
            case "frspec":
                head = self._head(method)
                if self.subset is None:
                    raise FrspecError(
                        f"{option('method')} frspec needs a vocabulary subset.",
                        hint=f"Name one with {option('vocab')}, or build one: frspec count-freq, then frspec build-vocab.",
                    )
                rows = self._rows(head, self.subset.prefix(k) if k else self.subset)
                full = head.own_lm_head or self.target.lm_head
                slots = ContextSlots(rows, full, context_slots) if context_slots else None
                return head_drafter(head, rows, tree, slots=slots, compiler=self.compiler)

    def draft_lm_head(self, drafter: Drafter) -> dict[str, int] | None:
        """What a drafter reads each draft step; None if it has no LM head.

        rows, bytes: of its LM head (a subset's rows are a copy of their own).
        full_bytes: of the full head that it would read otherwise.
        """
        if self.head is None or not isinstance(drafter, EagleDrafter):
            return None
        full = self.head.own_lm_head or self.target.lm_head
        return {"rows": drafter.lm_head.size, "bytes": drafter.lm_head.bytes, "full_bytes": full.bytes}

    def _head(self, method: Method) -> DraftHead:
        if self.head is None:
            raise FrspecError(
                f"{option('method')} {method} needs a draft head.",
                hint=f"Name one with {option('draft')}, or train one: frspec collect, then frspec train-draft.",
            )
        return self.head

    def _rows(self, head: DraftHead, subset: VocabularySubset) -> LmHead:
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
    norm_output: bool | None = None,
    compiled: bool = False,
    drafts: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Pipeline:
    """Loads head and subset for a target.

    draft: a head's folder or hub id, or one of `heads.options.MODULES` for the target's own. draft, vocab: default to what
        frspec ships for the model.
    k: use the subset's first k tokens. Default: all of a user's subset, the usual number of a shipped one.
    norm_output: as in `load_head`.
    compiled: compile the steps of target and draft.
    drafts: False reads neither head nor subset, for methods that need none.
    warn: called for what the head's config leaves in doubt, for a map that does not fit the head's rows, and if the subset's
        tokenizer is another one that agrees on the subset's ids.

    Raises `FrspecError` for files that do not fit.
    """
    compiler = compiling.compiler_for(target.device) if compiled else None
    if not drafts:
        return Pipeline(target=target, compiler=compiler)
    shipped = shipped_for(target.name)
    draft = draft or (str(shipped.head) if shipped.head else None)
    if vocab is None and shipped.subset is not None:
        vocab, k = str(shipped.subset), k or shipped.k
    head = None if draft is None else _load_draft(target, draft, norm_output=norm_output, warn=warn)
    subset = None
    if vocab is not None:
        tokenizer = load_tokenizer(str(target.folder))
        subset = load_subset(vocab, tokenizer=tokenizer, model_rows=target.rows, k=k, warn=warn)
    return Pipeline(target=target, head=head, subset=subset, draft=draft, vocab=vocab, compiler=compiler)


def _load_draft(target: Target, draft: str, *, norm_output: bool | None, warn: Callable[[str], None]) -> DraftHead:
    if draft in MODULES:
        module = load_mtp(target, norm_output=norm_output, before_norm=draft == MTP_PRENORM)
        use_kernel((module.modules_in_order[0] if isinstance(module, MtpModules) else module).mtp)
        return module
    head = load_head(
        draft,
        target_config=target.config,
        embedding_weight=target.embedding,
        device=target.device,
        dtype=target.dtype,
        norm_output=norm_output,
        warn=warn,
    )
    _warn_of_foreign_rows(head, target, where=draft, warn=warn)
    return head


def _warn_of_foreign_rows(head: DraftHead, target: Target, *, where: str, warn: Callable[[str], None]) -> None:
    if head.own_lm_head is None:
        return
    try:
        rows = target.lm_head
    except FrspecError:  # its LM head is not plain rows: the head's own serve it, and there is nothing to compare
        return
    doubt = foreign_rows(head.own_lm_head, rows, where=where)
    if doubt is not None:
        warn(doubt)


def generate(
    prompt: str,
    *,
    model: str = DEFAULT_MODEL,
    draft: str | None = None,
    vocab: str | None = None,
    k: int | None = None,
    device: str | None = None,
    dtype: str = "bfloat16",
    options: GenerateOptions = DEFAULTS,
) -> Generation:
    """Loads a model and answers one prompt: `generate("Why is the sky blue?").text`.

    For several prompts, load once: `load_pipeline(load_target(model)).generate(prompt)`. Arguments are those of `frspec
    generate`. Raises `FrspecError` for what cannot be loaded or decoded.

    >>> options = GenerateOptions(max_new_tokens=16)
    >>> answer = generate("one by one", model="model/", draft="head/", vocab="subset.parquet", options=options)
    >>> answer.prompt_tokens, len(answer.token_ids), answer.acceptance_length >= 1
    (21, 16, True)
    """
    if options.method is not None:
        check_method(options.method, draft=draft, vocab=vocab, k=k)
    pipeline = load_pipeline(load_target(model, device=device, dtype=dtype), draft=draft, vocab=vocab, k=k)
    method = options.method or pipeline.default_method()
    check_method(method, draft=draft, vocab=vocab, k=k)
    return pipeline.generate(prompt, dataclasses.replace(options, method=method))
