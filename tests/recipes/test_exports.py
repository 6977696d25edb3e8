"""What `export_dataset` writes is trained on by trl as its README says, for a step, with a tiny model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.context import Context
from tests.recipes.test_finetune import TINY
from tests.tools.conftest import call, ctx, daemon, open_daemon
from tests.tools.test_exports import dataset
from tests.tools.test_prepare import row

__all__ = ["ctx", "daemon", "open_daemon"]

pytestmark = pytest.mark.slow

# The README's lines are run as they stand, with trainers that know to take one step without a GPU.
TRAIN = """
import os, re, sys
from functools import partial
from pathlib import Path
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
more = {"GRPO": dict(max_completion_length=4, num_generations=2, per_device_train_batch_size=2)}
for kind, folder in zip(("SFT", "DPO", "GRPO"), sys.argv[2:], strict=True):
    os.chdir(folder)
    sys.path.insert(0, folder)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    config = getattr(trl, kind + "Config")(
        "out", use_cpu=True, bf16=False, max_steps=1, report_to=[], **more.get(kind, {}))
    setattr(trl, kind + "Trainer", partial(getattr(trl, kind + "Trainer"), args=config))
    exec(re.search("```python(.*?)```", Path("README.md").read_text(), re.S)[1])
    assert trainer.train().global_step == 1
    print(kind)
"""


def test_trainers_take_what_was_exported(
    ctx: Context, interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    python, model = interpreter("finetune"), tmp_path / "model"
    subprocess.run([str(python), "-P", "-c", TINY, str(model)], check=True, capture_output=True)
    made = dataset(ctx, tmp_path, *(row(number, rejected="no") for number in range(8)))
    forms = ("sft", "preference", "verifier")
    exported = [call(ctx, "export_dataset", dataset=made, form=form).path for form in forms]
    trained = subprocess.run(
        [str(python), "-P", "-c", TRAIN, str(model), *exported], capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert [line for line in trained.stdout.splitlines() if line.isupper()] == ["SFT", "DPO", "GRPO"]
