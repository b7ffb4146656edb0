"""From what the user named (files, folders, globs, URLs, hub datasets) to the corpus's shards."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from frspec_cli.corpus.options import Selection
from frspec_cli.corpus.shards import COMPRESSIONS, MAX_DEFAULT_SOURCES, Shard, arrange, file_stamp, readable
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.locate import HUB_ID
from frspec_cli.resume import is_run_folder

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_NUMBERING = re.compile(r"([-_.]?\d+)(-of-\d+)?$")
_WILDCARD = re.compile(r"[*?\[]")


UNKNOWN, HIDDEN, LINKED, NO_FILE = "of a suffix that frspec does not know", "hidden", "linked folders", "not files"
UNFINISHED = "kept by unfinished runs"
_MOST_NAMES = 5


class _PassedOver:
    """What a folder holds and is not read, by reason."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, reason: str) -> None:
        """One file or folder, its path relative to the source."""
        self._names.setdefault(reason, []).append(readable(name))

    def in_words(self) -> str:
        """A clause for each reason; "" if nothing was passed over."""
        return "".join(f"; {len(names):,} {reason} ({_listed(names)})" for reason, names in sorted(self._names.items()))

    def tell(self, source: str) -> None:
        """Says what was passed over in `source`, and forgets it."""
        if self._names:
            hint = f" {option('glob')} '*' reads any file as plain text." if UNKNOWN in self._names else ""
            self.say(f"passed over in {source}: {self.in_words()[2:]}.{hint}")
        self._names = {}


def _listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


@dataclass(frozen=True)
class _FileEntry:
    """One file of the corpus.

    url: path or URL.
    size: bytes.
    stamp: changes when the file does, "" if unknown.
    source: label of its documents.
    """

    url: str
    size: int
    stamp: str
    source: str


def find_shards(
    sources: Sequence[str],
    selection: Selection | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] | None = None,
) -> list[Shard]:
    """The shards that `sources` mean, sorted. Raises `FrspecError` for a source that does not exist or holds no text.

    note: gets a sentence for each folder in which files are passed over, and one for named files that are read as plain text.
        Default: `say`.
    """
    selection = selection or Selection()
    note = note or say
    passed = _PassedOver(note)
    entries: list[_FileEntry] = []
    hub: list[Shard] = []
    for source in sources:
        if _is_hub(source):
            from frspec_cli.corpus.hub import hub_shards  # the command line imports this module for its defaults alone

            say(f"looking up the dataset {source.removeprefix('hub:')}")
            hub += hub_shards(source, split=selection.split, config=selection.config)
            continue
        matches = list(_discover(source, selection, passed))
        if not matches:
            raise FrspecError(
                f"{source} holds no file that frspec reads ({' '.join(FORMATS)}, plain, {' '.join(COMPRESSIONS)})"
                f"{passed.in_words()}.",
                hint=f"Name the files, or give {option('glob')} '**/*.py': files of any other suffix that are named or "
                "match count as plain text.",
            )
        passed.tell(source)
        entries += matches
    if selection.glob is None:
        _tell_plain_text(entries, note)
    if (repeated := len(entries) - len({entry.url for entry in entries})) > 0:
        say(f"{repeated} files were named more than once; each is counted once.")
    common = _common_folder([entry.url for entry in entries if "://" not in entry.url])
    shards = _label_sources([*(_shard(entry, common, selection) for entry in entries), *hub], selection.name, common)
    return arrange(shards)


def _is_hub(source: str) -> bool:
    if source.startswith("hub:"):
        return True
    return bool(HUB_ID.fullmatch(source)) and not Path(source).exists() and not _split_suffix(source)[0]


def _tell_plain_text(entries: Sequence[_FileEntry], say: Callable[[str], None]) -> None:
    """Says which files are taken for plain text though their suffix does not say so."""
    other = sorted({os.path.basename(entry.url) for entry in entries if not _split_suffix(entry.url)[0]})
    if other:
        say(
            f"read as plain text, since frspec knows no other way for {'its suffix' if len(other) == 1 else 'their suffixes'}: "
            f"{_listed(other)}."
        )


def _discover(source: str, selection: Selection, passed: _PassedOver) -> Iterator[_FileEntry]:
    """The files of one source. Files in a folder must have a known format; files that are named or match may be any."""
    if "://" in source:
        return _discover_url(source, selection, passed)
    path = Path(source).expanduser()
    if path.is_dir():
        return _discover_folder(path, selection.glob, passed)
    if path.is_file():
        return iter([_local_entry(path, dataset_name(path.name))])
    if _WILDCARD.search(source):
        return _discover_glob(source)
    if source == "-":
        raise FrspecError(
            "standard input is not counted: a count reads its text again when it resumes.",
            hint="Write the text to a file, and give that.",
        )
    raise FrspecError(f"there is no file or folder {source}.", hint="Datasets on the hub are named owner/name.")


def _discover_folder(folder: Path, pattern: str | None, passed: _PassedOver) -> Iterator[_FileEntry]:
    name = folder.absolute().resolve().name
    for parent, folders, files in os.walk(folder, onerror=_unreadable_folder):
        visible = []
        for inner in sorted(folders):
            shown = Path(parent, inner).relative_to(folder).as_posix() + "/"
            if inner.startswith("."):
                passed.add(shown, HIDDEN)
            elif is_run_folder(Path(parent, inner)):  # the output may be inside its own corpus
                passed.add(shown, UNFINISHED)
            elif Path(parent, inner).is_symlink():
                passed.add(shown, LINKED)
            else:
                visible.append(inner)
        folders[:] = visible
        for file in sorted(files):
            path = Path(parent, file)
            relative = path.relative_to(folder).as_posix()
            if pattern and not _matches(relative, pattern):
                continue  # not what was asked for
            if file.startswith("."):
                passed.add(relative, HIDDEN)
            elif not path.is_file():
                passed.add(relative, NO_FILE)
            elif pattern or _split_suffix(file)[0]:
                yield _local_entry(path, name)
            else:
                passed.add(relative, UNKNOWN)


def _unreadable_folder(error: OSError) -> None:
    raise FrspecError(f"the folder {error.filename} cannot be read: {error.strerror}.") from None


def _matches(relative: str, pattern: str) -> bool:
    # `**/` may match no folder at all, as in every shell; fnmatch's * also crosses folders, as ** should.
    if "**" in pattern:
        return fnmatch.fnmatchcase(relative, pattern) or fnmatch.fnmatchcase(relative, pattern.replace("**/", ""))
    return PurePosixPath(relative).match(pattern) if "/" not in pattern else _same_depth(relative, pattern)


def _same_depth(relative: str, pattern: str) -> bool:
    return relative.count("/") == pattern.count("/") and PurePosixPath(relative).match(pattern)


def _discover_glob(source: str) -> Iterator[_FileEntry]:
    import glob

    before = Path(_WILDCARD.split(source, maxsplit=1)[0] + "x").parent
    name = before.absolute().resolve().name
    for match in sorted(glob.glob(os.path.expanduser(source), recursive=True)):
        if Path(match).is_file() and not any(map(is_run_folder, Path(match).absolute().parents)):
            yield _local_entry(Path(match), name)


def _local_entry(path: Path, source: str) -> _FileEntry:
    state = path.stat()
    return _FileEntry(os.path.abspath(path), state.st_size, file_stamp(state), source)


def _discover_url(source: str, selection: Selection, passed: _PassedOver) -> Iterator[_FileEntry]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(source)
        if _WILDCARD.search(source):
            files = fs.glob(path)
        elif fs.isdir(path):
            files = _files_in_url(fs, path, selection.glob, passed)
        elif fs.exists(path):
            files = [path]
        else:
            raise FrspecError(f"there is nothing at {source}.")
        for file in sorted(files):
            yield _remote_entry(fs, file, source)
    except (OSError, ValueError, ImportError) as error:
        extra = source.partition("://")[0].replace("https", "http")
        hint = f"pip install 'fsspec[{extra}]'" if isinstance(error, ImportError) else ""
        raise FrspecError(f"{source} cannot be listed: {str(error).splitlines()[0].rstrip('.')}.", hint=hint) from error


def _files_in_url(fs: Any, folder: str, pattern: str | None, passed: _PassedOver) -> list[str]:
    found = []
    for file in sorted(fs.find(folder)):
        relative = file.removeprefix(folder).lstrip("/")
        if pattern and not _matches(relative, pattern):
            continue
        if relative.startswith(".") or "/." in relative:
            passed.add(relative, HIDDEN)
        elif pattern or _split_suffix(file)[0]:
            found.append(file)
        else:
            passed.add(relative, UNKNOWN)
    return found


def _remote_entry(fs: Any, file: str, source: str) -> _FileEntry:
    info = fs.info(file)
    stamp = next((str(info[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), "")
    folder = PurePosixPath(file).parent.name or PurePosixPath(file).name
    name = folder if _WILDCARD.search(source) or not source.endswith(PurePosixPath(file).name) else ""
    label = name or dataset_name(PurePosixPath(file).name)
    return _FileEntry(fs.unstrip_protocol(file), int(info.get("size") or 0), stamp, label)


def _split_suffix(name: str) -> tuple[str, str]:
    """(format, compression) by a file's name; the format is "" for an unknown suffix."""
    path = PurePosixPath(name)
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    if compression:
        path = path.with_suffix("")
    return FORMATS.get(path.suffix.lower(), ""), compression


def dataset_name(file_name: str) -> str:
    """A file's name without its suffixes and shard number: `wiki-00001-of-00042.jsonl.zst` -> `wiki`."""
    form, compression = _split_suffix(file_name)
    stem = PurePosixPath(file_name).stem
    if compression and form:
        stem = PurePosixPath(stem).stem
    bare = _NUMBERING.sub("", stem)
    return bare or stem


def _shard(entry: _FileEntry, common: str, selection: Selection) -> Shard:
    form, compression = _split_suffix(entry.url)
    label = entry.url if "://" in entry.url else os.path.relpath(entry.url, common).replace(os.sep, "/")
    form = form or "text"
    if form == "text" and selection.lines:
        form = "lines"
    label, source = readable(label), readable(entry.source)
    return Shard(label, (entry.url,), form, compression, size=entry.size, stamp=entry.stamp, source=source)


def _common_folder(paths: list[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""


def _label_sources(shards: list[Shard], name: str | None, common: str) -> list[Shard]:
    if name is None and len({shard.source for shard in shards}) > MAX_DEFAULT_SOURCES:
        name = os.path.basename(common) or "corpus"
    return [replace(shard, source=readable(name)) for shard in shards] if name else shards
