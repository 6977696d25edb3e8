"""finetune, quantize and evaluate_harness before anything runs: what they refuse, and what they quote."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import Conflict, DataError, InputError
from agentd.plugins import Plugins, bundled_root
from agentd.sdk import Model
from tests.tools.conftest import SUITE, OpenDaemon, call, context_of, finish

weights = Plugins((bundled_root(),)).module("tools", "weights")
training = Plugins((bundled_root(),)).module("tools", "finetune")

# The widths of SmolLM2-135M, whose rank-16 adapter is known to have 4,884,480 parameters.
CONFIG = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
}


def model_folder(path: Path, **config: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [49152, 576], "data_offsets": [0, 0]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def rows(path: Path, count: int = 20) -> Path:
    path.write_text("\n".join(json.dumps({"prompt": f"Q{i}?", "completion": f"A{i}"}) for i in range(count)))
    return path


@pytest.fixture
def ctx(open_daemon: OpenDaemon, tmp_path: Path) -> Context:
    evals = tmp_path / "mine/evals"
    evals.mkdir(parents=True)
    (evals / "capitals.yaml").write_text(SUITE)
    (evals / "capitals.jsonl").write_text(json.dumps({"id": "c1", "input": "q7", "expected": "A7"}))
    base = Model(
        name="base",
        kind="local",
        path=model_folder(tmp_path / "base"),
        digest="d1",
        context=64,
        source="path:x",
    )
    adapter = Model(
        name="ad",
        kind="lora",
        base="base",
        path=tmp_path / "base",
        source="job:j",
        meta={"base_digest": "d0"},
    )
    far = Model(name="far", kind="frontier", endpoint="http://127.0.0.1:9/v1")
    daemon = open_daemon(roots=(tmp_path / "mine",), models=(base, adapter, far))
    return context_of(daemon, tmp_path)


def test_the_quote_counts_steps_as_the_trainer_does_and_names_its_basis(ctx: Context, tmp_path: Path) -> None:
    launch = call(ctx, "finetune", model="base", dataset=str(rows(tmp_path / "t.jsonl")), epochs=2)
    assert "6 steps" in launch.title
    assert launch.quote.basis.startswith("6 steps of about")
    assert launch.quote.seconds > 0
    assert launch.quote.ram_bytes > 1 << 30
    assert launch.spec["name"] == "base-t-lora"


def test_more_epochs_cost_more(ctx: Context, tmp_path: Path) -> None:
    data = str(rows(tmp_path / "t.jsonl"))
    short, long = (call(ctx, "finetune", model="base", dataset=data, epochs=e).quote for e in (1, 4))
    assert short.seconds < long.seconds


def test_training_on_the_suite_is_refused_showing_the_row(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 20 training rows.*line 8 is c1 \(the same input\): 'Q7\?'"):
        call(ctx, "finetune", model="base", dataset=str(rows(tmp_path / "t.jsonl")), suite="capitals")


def test_a_set_checked_with_another_chat_template_is_refused(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "base" / "chat_template.jinja").write_text("{{ messages }}")
    ours = hashlib.sha256(b"{{ messages }}").hexdigest()
    path = rows(tmp_path / "t.jsonl")
    checked = {"tokenizer_model": "other", "template": {"sha256": ours}}
    ctx.artifacts.add("dataset", path, name="same", meta=checked)
    assert call(ctx, "finetune", model="base", dataset="same").recipe == "finetune"
    ctx.artifacts.add("dataset", path, name="else", meta=checked | {"template": {"sha256": "d"}})
    with pytest.raises(
        InputError, match=r"chat template of 'other'.*check_dataset path=else tokenizer_model=base"
    ):
        call(ctx, "finetune", model="base", dataset="else")


def test_a_malformed_row_is_named_by_line(ctx: Context, tmp_path: Path) -> None:
    path = rows(tmp_path / "t.jsonl")
    path.write_text(path.read_text() + "\n{oops")
    with pytest.raises(DataError, match=r"t\.jsonl:21: is not JSON"):
        call(ctx, "finetune", model="base", dataset=str(path))


def test_too_few_rows_are_refused(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 7 rows"):
        call(ctx, "finetune", model="base", dataset=str(rows(tmp_path / "t.jsonl", 7)))


def test_a_model_behind_an_api_cannot_be_trained(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights on this machine"):
        call(ctx, "finetune", model="far", dataset=str(rows(tmp_path / "t.jsonl")))


def test_a_name_that_stands_for_another_model_is_a_conflict(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        call(ctx, "finetune", model="base", dataset=str(rows(tmp_path / "t.jsonl")), name="base")


def test_a_finished_run_becomes_an_adapter_in_the_catalog(ctx: Context, tmp_path: Path) -> None:
    launch = call(ctx, "finetune", model="base", dataset=str(rows(tmp_path / "t.jsonl")))
    adapter = tmp_path / "out/adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    result = {
        "path": "adapter",
        "final_loss": 0.1,
        "steps": 6,
        "seconds": 2.0,
        "tokens_per_s": 9.0,
        "size_bytes": 1,
        "chat_template_sha256": "",
        "parity_max_abs_diff": 0.0,
    }
    answer = finish(ctx, "finetune", launch, tmp_path / "out", result)
    model = ctx.catalog.get(answer["model"])
    assert (model.kind, model.base, model.meta["base_digest"]) == ("lora", "base", "d1")
    assert ctx.artifacts.get(answer["adapter"]).kind == "adapter"


def test_an_adapter_of_another_version_of_its_base_is_not_merged(ctx: Context) -> None:
    with pytest.raises(InputError, match="was trained on 'base' d0, which is now d1"):
        call(ctx, "quantize", model="ad", scheme="int8-w8a8")


def test_fixed_activation_ranges_need_rows_to_fix_them_by(ctx: Context) -> None:
    with pytest.raises(InputError, match="looks at activations"):
        call(ctx, "quantize", model="base", scheme="int8-w8a8-static")


def test_gptq_is_quoted_dearer_than_rounding(ctx: Context, tmp_path: Path) -> None:
    data = str(rows(tmp_path / "t.jsonl"))
    rtn, gptq = (call(ctx, "quantize", model="base", dataset=data, method=m).quote for m in ("rtn", "gptq"))
    assert rtn.seconds < gptq.seconds


def test_a_pickle_among_the_weights_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(DataError, match="run code when loaded"):
        weights.refuse_unsafe(folder)


def test_a_model_that_wants_its_own_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="auto_map"):
        weights.refuse_unsafe(model_folder(tmp_path / "m", auto_map={"AutoModel": "x.Y"}))


def test_a_truncated_safetensors_header_is_a_data_error(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\x01")
    with pytest.raises(DataError, match="not a safetensors file"):
        weights.read_shape(folder)


def test_adapter_parameters_are_counted_as_peft_counts_them(tmp_path: Path) -> None:
    assert weights.read_shape(model_folder(tmp_path / "m")).lora_parameters(16) == 4_884_480


def test_what_all_rows_begin_with_is_found() -> None:
    assert training.common_prefix(["abcd", "abx", "abcz"]) == "ab"


def test_a_harness_task_that_runs_python_is_refused(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/t.yaml").write_text("task: t\ndoc_to_text: !function evil.run\n")
    with pytest.raises(DataError, match="runs Python code"):
        call(ctx, "evaluate_harness", model="base", tasks=["t"], include_path="tasks")


def test_hub_tasks_are_refused_offline(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="arc_easy fetch their data from the hub"):
        call(ctx, "evaluate_harness", model="base", tasks=["arc_easy"])


def test_data_of_a_published_task_are_read_from_this_machine_and_code_is_not_run_unsandboxed(
    ctx: Context, tmp_path: Path
) -> None:
    (tmp_path / "gsm.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    given: dict[str, Any] = {"model": "base", "num_fewshot": 0}
    launch = call(ctx, "evaluate_harness", tasks=["gsm8k"], data={"gsm8k": "gsm.jsonl"}, **given)
    assert launch.inputs["data-gsm8k"] == tmp_path / "gsm.jsonl"
    assert not launch.spec["digests"]["gsm8k"].startswith("harness:")
    with pytest.raises(InputError, match="none of the tasks"):
        call(ctx, "evaluate_harness", tasks=["gsm8k"], data={"gsm": "gsm.jsonl"}, **given)
    with pytest.raises(InputError, match="without a sandbox"):
        call(ctx, "evaluate_harness", tasks=["gsm8k", "humaneval"], **given)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.jsonl"):
        call(ctx, "evaluate_harness", tasks=["gsm8k"], data={"gsm8k": "empty"}, **given)
