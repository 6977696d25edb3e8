"""The retriever, as this recipe asks it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from failures import Refused


class Retriever:
    """Calls to serve_retriever. All of them may be repeated."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        for pause in (0.5, 2.0, 5.0, None):
            try:
                with urllib.request.urlopen(request, timeout=600) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise refused_by(error) from None
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if pause is None:
                    hint = "look at the logs of the retriever, then ingest again: it goes on where it stopped"
                    raise Refused(f"The retriever at {self.url} does not answer: {error}", hint) from None
                time.sleep(pause)
        raise AssertionError("unreachable")


def refused_by(error: urllib.error.HTTPError) -> Refused:
    try:
        told = json.loads(error.read())["error"]
        return Refused(told["message"], told.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return Refused(f"The retriever answered {error.code} {error.reason}")
