"""Calls to the Hub: repeated where that helps, one clear sentence where it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

T = TypeVar("T")
HubError = HfHubHTTPError | httpx2.TransportError
FAILURES = (HfHubHTTPError, httpx2.TransportError, RuntimeError)  # uploads wrap theirs in a RuntimeError
TRIES = 6
PAUSE = 1.0  # seconds before the second try; each further one waits twice as long
MAX_PAUSE = 60.0
BUSY = (409, 412, 429)  # another writer, or too many requests: nothing was done yet
ADVICE = {
    401: "log in with `hf auth login`, or pass a valid `token=`",
    403: "use a token with the rights to do this",
    404: "check the name, or pass a `token=` that may see it",
    409: "another writer was faster each time: try again",
    412: "another writer was faster each time: try again",
    429: "too many requests: try again later",
}


def retry(call: Callable[[], T], task: str, *, repeatable: bool = True) -> T:
    """The result of `call`, tried up to six times over about half a minute.

    Tries again after 409, 412, 429 and 5xx and after a cut connection, waiting longer each time, or as long as the
    Hub asks for.

    Args:
        call: Does the work from the start each time: the repository may have changed in between.
        task: What is tried, for the error's sentence: "publish to 'me/rows'".
        repeatable: False where a call whose answer was lost must not be made twice.

    Returns:
        What `call` returns.

    Raises:
        HfHubHTTPError: If the Hub refuses, or is still busy; of the kind it was, in one sentence.
        ConnectionError: If the connection does not hold.
        ValueError: If the token cannot be sent.
    """
    attempt = 0
    while True:
        try:
            return call()
        except FAILURES as error:
            cause = _hub_error(error)
            if cause is None:
                raise
            if isinstance(cause, httpx2.LocalProtocolError) and "header" in str(cause):
                # Its words hold the token: they go nowhere, not even as this error's cause
                raise ValueError(
                    f"cannot {task}: `token` must be one non-empty line without spaces: copy it again."
                ) from None
            if attempt == TRIES - 1 or not _is_temporary(cause, repeatable):
                explained = _explained(cause, task, attempt + 1)
                raise explained from error
            pause = _pause(cause, attempt)
        attempt += 1
        time.sleep(pause)


def _hub_error(error: BaseException) -> HubError | None:
    """What went wrong with the connection; an upload's error is wrapped once."""
    return next((each for each in (error, error.__cause__) if isinstance(each, HubError)), None)


def _is_temporary(error: HubError, repeatable: bool) -> bool:
    if isinstance(error, httpx2.TransportError):
        return repeatable
    status = error.response.status_code
    return status in BUSY or (repeatable and status >= 500)


def _pause(error: HubError, attempt: int) -> float:
    seconds = "" if isinstance(error, httpx2.TransportError) else error.response.headers.get("Retry-After", "")
    return min(MAX_PAUSE, float(seconds) if seconds.isdigit() else PAUSE * 2**attempt)


def _explained(error: HubError, task: str, tries: int) -> Exception:
    """The error in one sentence that says what to do."""
    times = "" if tries == 1 else f" {tries} times"
    if isinstance(error, httpx2.TransportError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return ConnectionError(f"cannot {task}: the connection failed{times} ({reason.rstrip('.')}): try again later.")
    status = error.response.status_code
    advice = ADVICE.get(status, "try again later" if status >= 500 else "check the names and options")
    if isinstance(error, GatedRepoError):
        advice = "it is gated: ask for access on its page, or pass a `token=` that has it"
    elif isinstance(error, RevisionNotFoundError):
        advice = "there is no such revision"
    message = " ".join((error.server_message or error.response.headers.get("X-Error-Message") or "").split())
    reason = f" and said {message.rstrip('.')!r}" if message else ""
    sentence = f"cannot {task}: the Hub answered {status}{times}{reason}: {advice}."
    return type(error)(sentence, response=error.response)
