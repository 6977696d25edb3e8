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
import re, sys
from functools import partial
from pathlib import Path
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
kind, more = sys.argv[2], {}
if kind == "GRPO":
    more = dict(max_completion_length=4, num_generations=2, per_device_train_batch_size=2)
config = getattr(trl, kind + "Config")("out", use_cpu=True, bf16=False, max_steps=1, report_to=[], **more)
trainer = getattr(trl, kind + "Trainer")
setattr(trl, kind + "Trainer", partial(trainer, args=config))
exec(re.search("```python(.*?)```", Path("README.md").read_text(), re.S)[1])
assert trainer.train().global_step == 1
"""


@pytest.mark.parametrize(("form", "kind"), [("sft", "SFT"), ("preference", "DPO"), ("verifier", "GRPO")])
def test_a_trainer_takes_what_was_exported(
    ctx: Context, interpreter: Callable[[str], Path], tmp_path: Path, form: str, kind: str
) -> None:
    python, model = interpreter("finetune"), tmp_path / "model"
    subprocess.run([str(python), "-P", "-c", TINY, str(model)], check=True, capture_output=True)
    made = dataset(ctx, tmp_path, *(row(number, rejected="no") for number in range(8)))
    exported = call(ctx, "export_dataset", dataset=made, form=form)
    trained = subprocess.run(
        [str(python), "-c", TRAIN, str(model), kind], cwd=exported.path, capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
