"""A judge behind HTTP that rates a text by the number in it."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_gip.dataset.llm_scoring import ChatEndpoint


class Judge:
    """Rates a text by the number in it; `faults` are status codes given before answering."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.faults: list[int] = []
        self.silent = threading.Event()  # while it is set, requests wait for `heard`
        self.heard = threading.Event()
        self.lock = threading.Lock()

    def answer(self, prompt: str) -> str:
        number = re.search(r"----- example -----\n.*?(-?\d+)", prompt, re.DOTALL)
        value = int(number[1]) if number else 0
        if value == 13:
            return "I would rather not."
        if value == 14:
            return 'Sure! {"helpfulness": 14, "accuracy": true, "reasoning": 7}'
        return "Here you are:\n" + json.dumps({"helpfulness": value, "accuracy": 5, "reasoning": 7.5})


@pytest.fixture
def judge() -> Iterator[tuple[Judge, ChatEndpoint]]:
    state = Judge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append(body["messages"][0]["content"])
                state.keys.append(self.headers.get("Authorization"))
                fault = state.faults.pop(0) if state.faults else None
            if state.silent.is_set():
                state.heard.wait(30)
                return
            content = (
                {"error": "fault"}
                if fault
                else {
                    "id": "1",
                    "created": 0,
                    "model": body["model"],
                    "system_fingerprint": "",
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": state.answer(state.asked[-1])},
                        }
                    ],
                }
            )
            self.send_response(fault or 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state, ChatEndpoint(f"http://127.0.0.1:{server.server_port}/v1", "stub", api_key="secret", concurrency=1)
    server.shutdown()
    server.server_close()
    thread.join()
