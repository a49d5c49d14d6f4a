"""Calls to the Hub: repeated where that helps, one clear sentence where it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

T = TypeVar("T")
FAILURES = (HfHubHTTPError, httpx2.TransportError, RuntimeError)  # uploads wrap theirs in a RuntimeError
TRIES = 6
PAUSE = 1.0  # seconds before the second try; each further one waits twice as long
LONGEST = 60.0
BUSY = (409, 412, 429)  # another writer, or too many requests: nothing was done yet
ADVICE = {
    401: "log in with `hf auth login`, or pass a valid `token=`",
    403: "use a token with the rights to do this",
    404: "check the name, or pass a `token=` that may see it",
    409: "another writer was faster each time: try again",
    412: "another writer was faster each time: try again",
    429: "too many requests: try again later",
}


def persist(call: Callable[[], T], what: str, *, repeatable: bool = True) -> T:
    """The result of `call`, tried up to six times over about half a minute.

    Tries again after 409, 412, 429 and 5xx and after a cut connection, waiting longer each time, or as long as the
    Hub asks for.

    Args:
        call: Does the work from the start each time: it may find another state of the repository.
        what: What is tried, for the error's sentence: "publish to 'me/rows'".
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
            seconds = _pause_before_next(error, what, attempt, repeatable)
        attempt += 1
        time.sleep(seconds)


def _pause_before_next(error: Exception, what: str, attempt: int, repeatable: bool) -> float:
    cause = _cause(error)
    if isinstance(cause, httpx2.LocalProtocolError) and "header" in str(cause):
        # Its words hold the token: they go nowhere, not even as this error's cause
        raise ValueError(f"cannot {what}: `token` must be one non-empty line without spaces: copy it again.") from None
    if cause is None:
        raise error
    if attempt == TRIES - 1 or not _passes(cause, repeatable):
        said = _in_words(cause, what, attempt + 1)
        raise said from error
    return _pause(cause, attempt)


def _cause(error: BaseException) -> "HfHubHTTPError | httpx2.TransportError | None":
    """What went wrong with the connection; an upload's error is wrapped once."""
    for found in (error, error.__cause__):
        if isinstance(found, HfHubHTTPError | httpx2.TransportError):
            return found
    return None


def _passes(error: "HfHubHTTPError | httpx2.TransportError", repeatable: bool) -> bool:
    if isinstance(error, httpx2.TransportError):
        return repeatable
    status = error.response.status_code
    return status in BUSY or (repeatable and status >= 500)


def _pause(error: "HfHubHTTPError | httpx2.TransportError", attempt: int) -> float:
    asked = "" if isinstance(error, httpx2.TransportError) else error.response.headers.get("Retry-After", "")
    return min(LONGEST, float(asked) if asked.isdigit() else PAUSE * 2**attempt)


def _in_words(error: "HfHubHTTPError | httpx2.TransportError", what: str, tries: int) -> Exception:
    times = "" if tries == 1 else f" {tries} times"
    if isinstance(error, httpx2.TransportError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return ConnectionError(f"cannot {what}: the connection failed{times} ({reason.rstrip('.')}): try again later.")
    status = error.response.status_code
    advice = ADVICE.get(status, "try again later" if status >= 500 else "check what was asked for")
    if isinstance(error, GatedRepoError):
        advice = "it is gated: ask for access on its page, or pass a `token=` that has it"
    elif isinstance(error, RevisionNotFoundError):
        advice = "there is no such revision"
    said = " ".join((error.server_message or error.response.headers.get("X-Error-Message") or "").split())
    reason = f" and said {said.rstrip('.')!r}" if said else ""
    sentence = f"cannot {what}: the Hub answered {status}{times}{reason}: {advice}."
    return type(error)(sentence, response=error.response)
