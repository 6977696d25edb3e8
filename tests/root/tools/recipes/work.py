# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Write ``spec["text"]``, and the input if there is one, to a file; or go wrong as asked for.

python -P work.py SPEC OUT
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path


def main() -> int:
    spec, out = json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2])
    if spec["starts"]:
        with Path(spec["starts"]).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    print(json.dumps({"event": "progress", "done": 1, "total": 2, "unit": "steps"}), flush=True)
    if spec["hold"]:
        Path(spec["hold"]).read_text("utf-8")
    text = spec["text"]
    match spec["behaviour"]:
        case "refuse":
            event = {"event": "error", "message": "row 3 of train.jsonl is empty", "hint": "Remove the row"}
            print(json.dumps(event), flush=True)
            return 2
        case "crash":
            raise RuntimeError("the disk is upside down")
        case "exit_quietly":
            return 0
        case "hang":
            signal.pause()
        case "spawn_and_hang":
            command = [sys.executable, "-c", "import signal; signal.pause()"]
            child = subprocess.Popen(command, start_new_session=True)
            print(json.dumps({"event": "progress", "child": child.pid}), flush=True)
            signal.pause()
        case "ask_gateway":
            text = ask(spec["text"])
        case "tell" | "tell_and_refuse":
            return tell(Path(spec["inputs"]["source"]).read_text("utf-8"), out, spec["behaviour"] == "tell")
    source = spec["inputs"].get("source")
    note = out / "note.txt"
    note.write_text(text + (Path(source).read_text("utf-8") if source else ""), "utf-8")
    waiting = out / "result.part"
    services = {name: os.environ[s["token_env"]] != "" for name, s in spec["services"].items()}
    secret = sorted(name for name in os.environ if name.startswith("SOME_"))
    result = {"note": "note.txt", "pid": os.getpid(), "services": services, "secrets": secret}
    waiting.write_text(json.dumps(result), "utf-8")
    waiting.replace(out / "result.json")
    return 0


def tell(secrets: str, out: Path, well: bool) -> int:
    """Say what nobody should know, in every way there is."""
    print(secrets, file=sys.stderr)
    print(secrets, flush=True)
    print(json.dumps({"event": "progress", "done": 2, "message": secrets}), flush=True)
    print(json.dumps({"event": "error", "message": secrets, "hint": secrets}), flush=True)
    (out / "note.txt").write_text("told", "utf-8")
    (out / "result.part").write_text(json.dumps({"note": "note.txt", "told": secrets}), "utf-8")
    (out / "result.part").replace(out / "result.json")
    return 0 if well else 2


def ask(text: str) -> str:
    body = {"model": "fine", "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        os.environ["AGENTD_GATEWAY_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {os.environ['AGENTD_GATEWAY_KEY']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["choices"][0]["message"]["content"]


sys.exit(main())
