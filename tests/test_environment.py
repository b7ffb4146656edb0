"""The environment record tells two machines apart that call themselves the same."""

from __future__ import annotations

import json
import subprocess

from frspec_cli import environment


def test_flags_that_matter_are_named_in_a_fixed_order() -> None:
    zen3 = "fpu vme sse4_2 avx2 fma bmi2 sha_ni"
    zen5 = "fpu avx_vnni avx2 avx512_bf16 avx512f amx_bf16x"
    assert environment.cpu_flags(zen3) == ["avx2", "fma"]
    assert environment.cpu_flags(zen5) == ["avx2", "avx512f", "avx512_bf16", "avx_vnni"]
    assert environment.cpu_flags("fp asimd bf16 i8mm") == ["asimd", "bf16", "i8mm"]


def test_the_record_says_what_torch_can_use(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("frspec_cli.environment._cpuinfo", {"model name": "AMD EPYC", "flags": "avx2 x avx512f"}.get)
    record = environment.environment()
    assert (record["processor"], record["cpu_flags"], record["cpu_capability"]) == (
        "AMD EPYC",
        ["avx2", "avx512f"],
        "AVX2",
    )
    assert isinstance(record["cpu_bfloat16"], bool)
    assert len(record["load"]) == 3
    json.dumps(record)


def test_the_commit_is_the_checkouts(tmp_path, monkeypatch) -> None:
    package = tmp_path / "frspec_cli"
    package.mkdir()
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    assert environment._commit() is None
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    digest = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert environment._commit() == digest[:12]
    (tmp_path / "file").write_text("2")
    assert environment._commit() == f"{digest[:12]}-dirty"


def test_env_prints_lists_without_brackets(cli, monkeypatch) -> None:
    monkeypatch.setattr("frspec_cli.environment._cpuinfo", {"model name": "M", "flags": "avx2 fma"}.get)
    code, out, _ = cli("env")
    assert code == 0
    assert "cpu_flags        avx2 fma\n" in out
    assert json.loads(cli("env", "--json")[1])["cpu_flags"] == ["avx2", "fma"]
