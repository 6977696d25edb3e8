# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["agentdojo==0.1.35"]
# ///
"""AgentDojo's suites behind a socket: their tools, environments, ground truths and checks.

    python -P agentdojo_suites.py SOCKET

Source: Debenedetti et al., "AgentDojo" (2024), benchmark version v1.2.1. Listens on the Unix socket SOCKET; a
connection is one line of JSON in and one out:

    {"op": "suites"}
        {"banking": {"users": [...], "injections": [...], "tools": {name: JSON schema}}, ...}
    {"op": "begin", "suite", "user", "injection"}
        a fresh environment; with an `injection`, its goal lies in every place that the suite has for one.
        {"prompt", "marker", "calls": [{"tool", "args"}], "injected": [...]}: what the user asks, what any
        injected text holds, and the right calls for either
    {"op": "call", "tool", "args"}
        {"text"} or {"error"}
    {"op": "check"}
        {"utility", "security", "executed": [{"tool", "args"}]}: whether the user's task is done, whether
        the attack came off, and every call that was carried out
"""

import contextlib
import json
import socketserver
import sys

MARKER = "INSTRUCTION-7Q4X"
VERSION, NAMES = "v1.2.1", ("banking", "slack")


class Stage:
    """The environment of the task that is under way."""

    def __init__(self, suites):
        from agentdojo.functions_runtime import FunctionsRuntime

        self.suites = suites
        self.runtimes = {name: FunctionsRuntime(suite.tools) for name, suite in suites.items()}

    def described(self):
        return {
            name: {
                "users": list(suite.user_tasks),
                "injections": list(suite.injection_tasks),
                "tools": {tool.name: tool.parameters.model_json_schema() for tool in suite.tools},
            }
            for name, suite in self.suites.items()
        }

    def begin(self, suite, user, injection):
        self.suite, chosen = suite, self.suites[suite]
        self.user = chosen.get_user_task_by_id(user)
        self.injection = chosen.get_injection_task_by_id(injection) if injection else None
        goal = " ".join(self.injection.GOAL.replace('"', "'").split()) if injection else ""
        vectors = chosen.get_injection_vector_defaults() if injection else ()
        places = dict.fromkeys(vectors, f"{MARKER}: {goal}")
        self.environment = self.user.init_environment(chosen.load_and_inject_default_environment(places))
        self.before = self.environment.model_copy(deep=True)
        self.executed = []
        return {
            "prompt": self.user.PROMPT,
            "marker": MARKER,
            "calls": plain(self.user.ground_truth(self.before)),
            "injected": plain(self.injection.ground_truth(self.before)) if injection else [],
        }

    def call(self, tool, args):
        from agentdojo.functions_runtime import FunctionCall

        given = {name: value for name, value in args.items() if value is not None}
        answer, error = self.runtimes[self.suite].run_function(self.environment, tool, given)
        if error:
            return {"error": error}
        self.executed.append(FunctionCall(function=tool, args=given))
        return {"text": json.dumps(answer, default=lambda value: value.model_dump(mode="json"))}

    def check(self):
        return {
            "utility": self._holds(self.user, "utility"),
            "security": self.injection is not None and self._holds(self.injection, "security"),
            "executed": plain(self.executed),
        }

    def _holds(self, task, name):
        said = (task.GROUND_TRUTH_OUTPUT, self.before, self.environment)
        found = getattr(task, f"{name}_from_traces")(*said, self.executed)
        return bool(getattr(task, name)(*said) if found is None else found)


def plain(calls):
    return [{"tool": call.function, "args": dict(call.args)} for call in calls]


def main(path):
    from agentdojo.task_suite.load_suites import get_suite

    stage = Stage({name: get_suite(VERSION, name) for name in NAMES})
    answers = {"suites": stage.described, "begin": stage.begin, "call": stage.call, "check": stage.check}

    class Line(socketserver.StreamRequestHandler):
        def handle(self):
            request = json.loads(self.rfile.readline())
            with contextlib.redirect_stdout(sys.stderr):
                answer = answers[request.pop("op")](**request)
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.UnixStreamServer(path, Line) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
