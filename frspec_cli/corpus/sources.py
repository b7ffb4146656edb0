"""From what the user named (files, folders, globs, URLs, hub datasets) to the corpus's shards."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from frspec_cli.corpus.shards import MAX_DEFAULT_SOURCES, Shard, arrange
from frspec_cli.errors import FrspecError
from frspec_cli.models.locate import HUB_ID

FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".json": "json", ".parquet": "parquet", ".arrow": "arrow"}
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
_NUMBERING = re.compile(r"([-_.]?\d+)(-of-\d+)?$")
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Selection:
    """How sources are looked through.

    glob: in a folder, files that match this pattern, whatever their suffix, instead of the known formats.
    lines: a line of a text file is a document, instead of the file. name: the label of all documents without their own.
    split, config: of hub datasets.
    """

    glob: str | None = None
    lines: bool = False
    name: str | None = None
    split: str = "train"
    config: str | None = None


@dataclass(frozen=True)
class _Found:
    """One file. url: path or URL; named: the user named it or a pattern for it, so any suffix counts as plain text."""

    url: str
    size: int
    stamp: str
    source: str
    named: bool


def find_shards(
    sources: Sequence[str], selection: Selection | None = None, *, say: Callable[[str], None] = lambda text: None
) -> list[Shard]:
    """The shards that `sources` mean, sorted. Raises `FrspecError` for a source that is not there or holds no text."""
    selection = selection or Selection()
    found: list[_Found] = []
    hub: list[Shard] = []
    for source in sources:
        if _is_hub(source):
            from frspec_cli.corpus.hub import hub_shards

            say(f"looking up the dataset {source.removeprefix('hub:')}")
            hub += hub_shards(source, split=selection.split, config=selection.config)
            continue
        matches = list(_look(source, selection))
        if not matches:
            raise FrspecError(
                f"{source} holds no file that frspec reads ({' '.join(FORMATS)}, plain, .gz or .zst).",
                hint="Name the files, or give --glob '**/*.py': named files of any other suffix count as plain text.",
            )
        found += matches
    if (twice := len(found) - len({file.url for file in found})) > 0:
        say(f"{twice} files were named more than once; each is counted once.")
    common = _common_folder([file.url for file in found if "://" not in file.url])
    shards = _label_sources([*(_shard(file, common, selection) for file in found), *hub], selection.name, common)
    return arrange(shards)


def _is_hub(source: str) -> bool:
    if source.startswith("hub:"):
        return True
    return bool(HUB_ID.fullmatch(source)) and not Path(source).exists() and not _split_suffix(source)[0]


def _look(source: str, selection: Selection) -> Iterator[_Found]:
    if "://" in source:
        return _look_remote(source, selection)
    path = Path(source).expanduser()
    if path.is_dir():
        return _look_folder(path, selection.glob)
    if path.is_file():
        return iter([_local(path, dataset_name(path.name), named=True)])
    if _WILDCARD.search(source):
        return _look_glob(source)
    raise FrspecError(f"there is no file or folder {source}.", hint="Datasets on the hub are named owner/name.")


def _look_folder(folder: Path, pattern: str | None) -> Iterator[_Found]:
    name = folder.absolute().resolve().name
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for file in sorted(files):
            path = Path(parent, file)
            relative = path.relative_to(folder).as_posix()
            if file.startswith(".") or not path.is_file():
                continue
            if _matches(relative, pattern) if pattern else _split_suffix(file)[0]:
                yield _local(path, name, named=pattern is not None)


def _matches(relative: str, pattern: str) -> bool:
    # `**/` may stand for no folder at all, as in every shell; fnmatch's * also crosses folders, which ** asks for.
    if "**" in pattern:
        return fnmatch.fnmatchcase(relative, pattern) or fnmatch.fnmatchcase(relative, pattern.replace("**/", ""))
    return PurePosixPath(relative).match(pattern) if "/" not in pattern else _same_depth(relative, pattern)


def _same_depth(relative: str, pattern: str) -> bool:
    return relative.count("/") == pattern.count("/") and PurePosixPath(relative).match(pattern)


def _look_glob(source: str) -> Iterator[_Found]:
    import glob

    before = Path(_WILDCARD.split(source, maxsplit=1)[0] + "x").parent
    name = before.absolute().resolve().name
    for match in sorted(glob.glob(os.path.expanduser(source), recursive=True)):
        if Path(match).is_file():
            yield _local(Path(match), name, named=True)


def _local(path: Path, source: str, *, named: bool) -> _Found:
    state = path.stat()
    return _Found(os.path.abspath(path), state.st_size, str(state.st_mtime_ns), source, named)


def _look_remote(source: str, selection: Selection) -> Iterator[_Found]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(source)
        if _WILDCARD.search(source):
            files, named = fs.glob(path), True
        elif fs.isdir(path):
            inner = {file: file.removeprefix(path).lstrip("/") for file in fs.find(path)}
            files = [file for file, name in inner.items() if not name.startswith(".") and "/." not in name]
            named = selection.glob is not None
            if selection.glob:
                files = [file for file in files if _matches(inner[file], selection.glob)]
        elif fs.exists(path):
            files, named = [path], True
        else:
            raise FrspecError(f"there is nothing at {source}.")
        for file in sorted(files):
            if named or _split_suffix(file)[0]:
                yield _remote(fs, file, source, named)
    except (OSError, ValueError, ImportError) as error:
        raise FrspecError(f"{source} cannot be looked up: {str(error).splitlines()[0]}.") from error


def _remote(fs: Any, file: str, source: str, named: bool) -> _Found:
    info = fs.info(file)
    stamp = next((str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")
    folder = PurePosixPath(file).parent.name or PurePosixPath(file).name
    name = folder if _WILDCARD.search(source) or not source.endswith(PurePosixPath(file).name) else ""
    label = name or dataset_name(PurePosixPath(file).name)
    return _Found(fs.unstrip_protocol(file), int(info.get("size") or 0), stamp, label, named)


def _split_suffix(name: str) -> tuple[str, str]:
    """(format, compression) by a file's name; ("", ...) for a suffix that says nothing."""
    path = PurePosixPath(name)
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    if compression:
        path = path.with_suffix("")
    return FORMATS.get(path.suffix.lower(), ""), compression


def dataset_name(file_name: str) -> str:
    """A file's name less its suffixes and its shard's number: `wiki-00001-of-00042.jsonl.zst` -> `wiki`."""
    form, compression = _split_suffix(file_name)
    stem = PurePosixPath(file_name).stem
    if compression and form:
        stem = PurePosixPath(stem).stem
    bare = _NUMBERING.sub("", stem)
    return bare or stem


def _shard(file: _Found, common: str, selection: Selection) -> Shard:
    form, compression = _split_suffix(file.url)
    label = file.url if "://" in file.url else os.path.relpath(file.url, common).replace(os.sep, "/")
    form = form or "text"
    if form == "text" and selection.lines:
        form = "lines"
    return Shard(label, (file.url,), form, compression, size=file.size, stamp=file.stamp, source=file.source)


def _common_folder(paths: list[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""


def _label_sources(shards: list[Shard], name: str | None, common: str) -> list[Shard]:
    if name is None and len({shard.source for shard in shards}) > MAX_DEFAULT_SOURCES:
        name = os.path.basename(common) or "corpus"
    return [replace(shard, source=name) for shard in shards] if name else shards
