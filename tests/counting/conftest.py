from __future__ import annotations

from pathlib import Path

import pytest

from tests.counting.corpora import byte_level, sentence_piece


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer's folder."""
    return byte_level(tmp_path_factory.mktemp("byte-level"))


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece-like tokenizer's folder."""
    return sentence_piece(tmp_path_factory.mktemp("sentence-piece"))
