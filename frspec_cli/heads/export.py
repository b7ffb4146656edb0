"""Writes a head in a peer's layout: for EAGLE's own code, SGLang, or speculators (which vLLM loads).

An EAGLE-3 head can be sliced to a vocabulary subset, inside the tokens that it has rows for: a row for any other token
needs training. What a peer cannot compute is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from frspec_cli import storage
from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.files import WEIGHTS, locate_head, read_config, read_tensors
from frspec_cli.heads.kinds import refuse_other_kind
from frspec_cli.heads.layouts import ParsedHead, Tensors, parse_head
from frspec_cli.heads.options import ExportOptions, Peer, yes_or_no
from frspec_cli.heads.peers import check_peer, config_for, speculators_config, tensors_for
from frspec_cli.models.config_schema import check_text_config
from frspec_cli.models.embedding import read_embedding
from frspec_cli.models.locate import locate_model, resolvable_name
from frspec_cli.models.target import read_model_config
from frspec_cli.subsets.load import load_subset
from frspec_cli.tensor_files import write_safetensors
from frspec_cli.tokens.tokenizer import load_tokenizer


@dataclass(frozen=True)
class ExportedHead:
    """What was written.

    k: rows of the head's own LM head; None if it uses the target's.
    sha256: of the weights' file.
    warnings: what the reader should know.
    embedding_bytes: of the target's embedding, if the file holds it.
    """

    k: int | None
    sha256: str
    warnings: tuple[str, ...]
    embedding_bytes: int | None = None


def export_draft(path: str | Path, out: Path, options: ExportOptions) -> ExportedHead:
    """Writes the head at `path` (a folder or a hub id) to the folder `out` as the options ask.

    Raises `FrspecError` for what the peer cannot run, and for a subset of another tokenizer.
    """
    target = None if options.model is None else locate_model(options.model)
    layers, name, embedding = None, None, None
    if options.model is not None and target is not None:
        config = read_model_config(options.model, target)
        check_text_config(config, target / "config.json")
        layers = int(config.get_text_config().num_hidden_layers)
        name = resolvable_name(options.model, target)
        embedding = read_embedding(target) if options.to == "speculators" else None
    warnings: list[str] = []
    subset = None
    if options.vocab is not None:
        subset = _matching_subset(locate_head(path), options.vocab, k=options.k, target=target, warn=warnings.append)
    written = export_head(
        path,
        options.to,
        out,
        subset=subset,
        layers=layers,
        target=name,
        embedding=embedding,
        norm_output=yes_or_no(options.norm_output),
    )
    return replace(written, warnings=(*warnings, *written.warnings))


def _matching_subset(
    head: Path, vocab: Path, *, k: int | None, target: Path | None, warn: Callable[[str], None]
) -> torch.Tensor:
    """int64 [K] ids by rank, of a subset whose tokenizer is that of the head's target.

    The tokenizer is the target's if that is known, otherwise the one that the head records.
    """
    tokenizer = None if target is None else load_tokenizer(str(target))
    subset = load_subset(vocab, tokenizer=tokenizer, k=k, warn=warn)
    recorded = read_config(head).get("tokenizer_fingerprint")
    if tokenizer is None and recorded is None:
        warn(
            f"{head} does not record its tokenizer: name its target with {option('model')} to have {vocab} checked "
            "against it."
        )
    elif tokenizer is None and recorded != subset.fingerprint:
        raise FrspecError(
            f"{vocab} was made for another tokenizer ({subset.fingerprint[:12]}) than {head} was trained with "
            f"({str(recorded)[:12]}).",
            hint=f"If their tokens are the same nevertheless, name the target with {option('model')}: then they are "
            "compared.",
        )
    return torch.from_numpy(subset.token_ids.astype("int64"))


def export_head(
    path: str | Path,
    to: Peer,
    out: Path,
    *,
    subset: torch.Tensor | None = None,
    layers: int | None = None,
    target: str | None = None,
    embedding: torch.Tensor | None = None,
    norm_output: bool | None = None,
) -> ExportedHead:
    """Writes the head at `path` to the folder `out` as `to` reads it.

    subset: int64 [K], target token ids to slice an EAGLE-3 head to.
    layers: the target's number of layers, if it is known.
    target: the target's name, if it is known.
    embedding: the target's, [V, H], for the file of a peer whose loader wants it; a head's own goes first.
    norm_output: as in `load_head`.
    Raises `FrspecError` for what the peer cannot run.
    """
    folder = locate_head(path)
    raw = read_config(folder)
    refuse_other_kind(raw, (), where=str(path))
    head = parse_head(raw, read_tensors(folder), layers=layers, where=str(path), norm_output=norm_output)
    check_peer(head.config, to, layers=layers, where=str(path))
    warnings: list[str] = list(head.notes)
    if subset is not None:
        head = slice_head(head, subset, warnings, where=str(path))
    if to == "speculators":
        head = rows_by_token(head)
    tensors = tensors_for(head, to)
    config = speculators_config(head, raw, target) if to == "speculators" else config_for(head, raw, to)
    if head.config.layout == "eagle3" and not head.config.taps:
        warnings.append("the head records no taps: its reader takes the default (2, n // 2, n - 3).")
    if to == "speculators" and head.config.target_hidden_size is not None:
        warnings.append("speculators' own code runs heads of the target's hidden size only; vLLM reads this one.")
    if to == "speculators" and target is None and not (raw.get("speculators_config") or {}).get("verifier"):
        warnings.append(
            f"no target is named, so the export names none, and speculators cannot load it: give {option('model')}."
        )
    size = None
    if to == "speculators":
        size = _add_embedding(tensors, head, embedding, warnings, target=target, where=str(path))
    with storage.atomic_folder(out) as temporary:
        write_safetensors(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        storage.write_json(temporary / "config.json", config)
        digest = storage.sha256_file(temporary / WEIGHTS)
    return ExportedHead(head.config.draft_vocab_size, digest, tuple(warnings), size)


def _add_embedding(
    tensors: Tensors,
    head: ParsedHead,
    embedding: torch.Tensor | None,
    warnings: list[str],
    *,
    target: str | None,
    where: str,
) -> int | None:
    """Adds the target's embedding to a speculators file that lacks one, and returns its bytes; None if nothing was added.

    speculators leaves uninitialised memory where a file has no embed_tokens.weight, and drafts garbage without a word.
    Raises `FrspecError` if it is the embedding of a target of another size.
    """
    if "embed_tokens.weight" in tensors:
        return None
    if embedding is None:
        how = f"Name the target with {option('model')} to have its embedding written."
        if target is not None:
            how = "The target's safetensors hold no tensor that is named like an embedding, so it could not be written."
        warnings.append(
            "the file has no embed_tokens.weight: vLLM takes the target's, but speculators' own loader takes whatever is in "
            f"memory. {how}"
        )
        return None
    expected = (head.config.vocab_size, head.config.hidden_size)
    if tuple(embedding.shape) != expected:
        raise FrspecError(
            f"{where} is a draft head of another target: the embedding of this one has the shape {list(embedding.shape)}, "
            f"expected {list(expected)}."
        )
    written = embedding.to(head.tensors["fc.weight"].dtype)
    tensors["embed_tokens.weight"] = written
    return written.numel() * written.element_size()


def slice_head(head: ParsedHead, subset: torch.Tensor, warnings: list[str], *, where: str) -> ParsedHead:
    """The EAGLE-3 head with only the rows of `subset` (int64 [K] token ids) that it has, in ascending order.

    Adds to `warnings` how many tokens it has no row for. Raises `FrspecError` for heads without rows of their own.
    """
    if head.lm_head is None or head.config.layout != "eagle3":
        raise FrspecError(
            f"{where} has no LM head of its own, so there is nothing to slice: any subset fits it as it is.",
            hint=f"Give the engine the subset itself: frspec export-vocab SUBSET {option('to')} sglang.",
        )
    ids = torch.arange(len(head.lm_head)) if head.ids is None else head.ids
    subset = subset.to(torch.int64)
    if len(subset) and int(subset.max()) >= head.config.vocab_size:
        raise FrspecError(
            f"the subset holds token {int(subset.max())}, but {where} is for a vocabulary of {head.config.vocab_size}."
        )
    rows = torch.isin(ids, subset).nonzero().flatten()
    if not len(rows):
        raise FrspecError(f"{where} has a row for none of the subset's {len(subset)} tokens.")
    if len(rows) < len(subset):
        warnings.append(
            f"{len(subset) - len(rows):,} of the subset's {len(subset):,} tokens are left out: the head has no rows for "
            "them, and only training can add rows."
        )
    rows = rows[ids[rows].argsort()]
    config = replace(head.config, draft_vocab_size=len(rows))
    return replace(head, config=config, lm_head=head.lm_head[rows], ids=ids[rows])


def rows_by_token(head: ParsedHead) -> ParsedHead:
    """The head with its LM head's rows in ascending order of their tokens.

    speculators gathers the target's rows by t2d, which is a mask: the draft's rows must be in the same order.
    """
    if head.ids is None or head.lm_head is None:
        return head
    order = head.ids.argsort()
    return replace(head, lm_head=head.lm_head[order], ids=head.ids[order])
