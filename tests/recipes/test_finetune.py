"""tools/recipes/finetune.py: its rows, its packing, and a whole run of a tiny model."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

RECIPE = Path(__file__).parents[2] / "tools/recipes/finetune.py"


recipe = load(RECIPE)

# Run in the recipe's environment: a two-layer Llama with random weights and a byte-level tokenizer.
TINY = """
import json, sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tok = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<e>"])}, merges=[]))
tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<e>", pad_token="<e>")
fast.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}<e>{% endfor %}"
config = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=len(fast), max_position_embeddings=256, eos_token_id=256, pad_token_id=256,
    initializer_range=0.2)
LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[1]); fast.save_pretrained(sys.argv[1])
"""

PACKING = """
import importlib.util, sys, torch
from pathlib import Path
spec = importlib.util.spec_from_file_location("recipe", sys.argv[1])
recipe = importlib.util.module_from_spec(spec)
sys.modules["recipe"] = recipe
spec.loader.exec_module(recipe)
model = recipe.load(Path(sys.argv[2]), torch.float32)
head = [5, 6, 7, 8, 9, 10]
ids = torch.tensor([[*head, 11, 12, 13, 14], [*head, 21, 22, 0, 0], [*head[:5], 31, 32, 33, 34, 0]])
mask = torch.tensor([[1] * 10, [1] * 8 + [0] * 2, [1] * 9 + [0]])
labels = ids.clone(); labels[:, :6] = -100; labels[mask == 0] = -100; labels[0, 6] = -100

def step(batch):
    model.zero_grad(); loss = recipe.completion_loss(model, batch); loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

packed = recipe.pack(ids, labels, mask, torch.float32)
assert packed["input_ids"].shape == (1, 5 + 5 + 3 + 4), packed["input_ids"].shape
(a, ga), (b, gb) = step(packed), step(recipe.plain(ids, labels, mask))
reference = model(input_ids=ids, attention_mask=mask, labels=labels).loss
assert torch.allclose(a, b) and torch.allclose(b, reference), (a, b, reference)
assert torch.allclose(ga, gb, atol=1e-6), float((ga - gb).abs().max())
unscored = recipe.pack(ids, ids.masked_fill(mask == 0, -100), mask, torch.float32)
assert unscored["input_ids"].shape == (1, 27), "tokens that are scored are not shared"
"""


@pytest.mark.parametrize("line", ["{", "[]", '"text"', '{"prompt": "only"}', '{"question": "?"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n\n' + line)
    with pytest.raises(recipe.Stop, match=r"rows\.jsonl:3 is not a training row"):
        recipe.read_rows(path)


def test_rows_keep_only_the_columns_that_are_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": 1, "prompt": "a", "completion": "b", "text": "c"}))
    assert recipe.read_rows(path) == [{"prompt": "a", "completion": "b"}]


def test_of_a_conversation_only_the_last_answer_is_learned(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    said = [{"role": role, "content": f"{role}\u2028says"} for role in ("user", "assistant")]
    path.write_text(json.dumps({"messages": [*said, *said]}, ensure_ascii=False))
    assert recipe.read_rows(path) == [{"prompt": [*said, said[0]], "completion": [said[1]]}]


def test_a_checkpoint_without_its_last_file_is_passed_over(tmp_path: Path) -> None:
    for step, whole in ((10, True), (9, True), (20, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text("{}")
    assert recipe.complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert recipe.complete_checkpoint(tmp_path / "none") is None


# --- with torch -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(interpreter: Callable[[str], Path]) -> Path:
    return interpreter("finetune")


@pytest.fixture(scope="module")
def tiny(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([str(python), "-P", "-c", TINY, str(folder)], check=True, capture_output=True)
    return folder


def spec_file(folder: Path, model: Path, **values: Any) -> Path:
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {"inputs": {"model": str(model), "dataset": str(folder / "rows.jsonl")}, "batch_size": 4, **values}
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    (folder / "out").mkdir(exist_ok=True)
    return path


def run(python: Path, spec: Path) -> tuple[int, list[Any]]:
    command = [str(python), "-P", str(RECIPE), str(spec), str(spec.parent / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, [json.loads(x) for x in ran.stdout.splitlines() if x.startswith('{"event"')]


@pytest.mark.slow
def test_packing_changes_neither_loss_nor_gradients(python: Path, tiny: Path) -> None:
    command = [str(python), "-P", "-c", PACKING, str(RECIPE), str(tiny)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_and_what_it_saved_is_what_it_trained(
    python: Path, tiny: Path, tmp_path: Path, method: str
) -> None:
    code, events = run(python, spec_file(tmp_path, tiny, method=method, epochs=6, learning_rate=1e-2))
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert code == 0, events
    assert result["final_loss"] < result["train_loss"]  # the last step's, and the mean of all
    assert (result["steps"], result["rows"], result["packing"]) == (24, 16, "shared-prefix")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(["result.json", result["path"]])
    assert not list((tmp_path / "out").rglob("*.bin"))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(python: Path, tiny: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, tiny, epochs=25, checkpoint_seconds=0)
    command = [str(python), "-P", str(RECIPE), str(spec), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line).get("done", 0) >= 5:
                process.send_signal(signal.SIGTERM)
                break
    code, events = run(python, spec)
    steps = [event["done"] for event in events if "loss" in event]
    assert code == 0
    assert steps[0] >= 4
    assert steps[-1] == 100


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_at_once(python: Path, tiny: Path, tmp_path: Path) -> None:
    code, events = run(python, spec_file(tmp_path, tiny, method="full", epochs=20, learning_rate=1e30))
    assert code == 2
    assert "The loss became" in events[-1]["message"]
    assert events[-1]["cause"] == "nan_loss"


@pytest.mark.slow
def test_rows_that_are_all_too_long_end_the_run_with_their_length(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    code, events = run(python, spec_file(tmp_path, tiny, max_length=4))
    assert code == 2
    assert "16 of 16 rows are longer than 4 tokens" in events[-1]["message"]
