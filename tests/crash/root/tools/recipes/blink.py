# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Say that this attempt has started, before anything else; then end as ``spec["behaviour"]`` says.

python -P blink.py SPEC OUT
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

spec, out = json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2])
line = {
    "attempt": os.environ["AGENTD_ATTEMPT_ID"],
    "pid": os.getpid(),
    "start_time": int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19]),
    "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip(),
    "what": "blink",
}
starts = os.open(spec["starts"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
os.write(starts, (json.dumps(line) + "\n").encode())
time.sleep(spec["ms"] / 1000)
if spec["behaviour"] == "fail":
    print(json.dumps({"event": "error", "message": "it was told to fail"}), flush=True)
    sys.exit(2)
if spec["behaviour"] == "litter":
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(command, start_new_session=True)
(out / "result.part").write_text(json.dumps({"pid": os.getpid()}), "utf-8")
(out / "result.part").replace(out / "result.json")
