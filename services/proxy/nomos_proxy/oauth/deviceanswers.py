"""What an authorization server answers to a device. Pure: no IO, no clock, no randomness.

Source: RFC 8628 section 3.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct

from nomos.catalogue.oauth import OAuth
from nomos_proxy.destination import Origin
from nomos_proxy.oauth.protocol import AnswerUnreadable, answer_error, read_object

#: Seconds that a code may work at most, whatever the provider says.
DEVICE_SECONDS_MAX: Final = 1_800
#: Where the provider names no interval, RFC 8628 section 3.2; and the longest that is waited for at first.
INTERVAL_SECONDS: Final = 5
INTERVAL_SECONDS_MAX: Final = 60
_DEVICE_CODE: Final = re.compile(r"[!-~]{1,4000}")
#: What a person types, and what a terminal shows: plain characters, and hyphens or spaces between groups.
_USER_CODE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 -]{0,38}[A-Za-z0-9])?")
_ADDRESS: Final = re.compile(r"https://[a-z0-9.-]+(?::[0-9]{1,5})?(?:/[!-~]{0,1000})?")
State = Literal["granted", "pending", "slow_down", "denied", "expired"]
_STATES: Final[dict[str, State]] = {
    "authorization_pending": "pending",
    "slow_down": "slow_down",
    "access_denied": "denied",
    "expired_token": "expired",
}


class DeviceCode(Struct, frozen=True, kw_only=True):
    """A code that a provider gave.

    Attributes:
        device_code: what the proxy shows when it asks; a secret.
        user_code: what a person enters.
        address: where.
        complete: the same with the code in it; empty where the provider gives none.
        expires_at: Unix seconds.
        interval: seconds between two questions.
    """

    device_code: str
    user_code: str
    address: str
    complete: str
    expires_at: int
    interval: int

    def __repr__(self) -> str:
        return "DeviceCode(redacted)"


def read_device(body: bytes, *, now: int, instead: Origin | None = None) -> DeviceCode:
    """The code in an answer that :func:`nomos_proxy.oauth.protocol.check_answer` took.

    Args:
        body: of the answer.
        now: Unix seconds.
        instead: an origin in place of the provider's, in development only; addresses may be there too.

    Raises:
        AnswerUnreadable: it holds none, or something that is not to be shown to a person.
    """
    answer = read_object(body)
    code, shown = answer.get("device_code"), answer.get("user_code")
    # some providers still say verification_url, as a draft had it
    address = answer.get("verification_uri") or answer.get("verification_url")
    complete = answer.get("verification_uri_complete") or ""
    life, interval = answer.get("expires_in"), answer.get("interval", INTERVAL_SECONDS)
    if not isinstance(code, str) or _DEVICE_CODE.fullmatch(code) is None:
        raise AnswerUnreadable("the provider answered without a device code")
    if not isinstance(shown, str) or _USER_CODE.fullmatch(shown) is None:
        raise AnswerUnreadable("the provider's code is none that a person could enter")
    if not isinstance(address, str) or not _is_address(address, instead):
        raise AnswerUnreadable("the provider does not say where its code is entered")
    if not isinstance(complete, str) or (complete and not _is_address(complete, instead)):
        complete = ""
    if not _is_count(life) or not _is_count(interval):
        raise AnswerUnreadable("the provider does not say how long its code works")
    return DeviceCode(
        device_code=code,
        user_code=shown,
        address=address,
        complete=complete,
        expires_at=now + min(int(str(life)), DEVICE_SECONDS_MAX),
        interval=max(1, min(int(str(interval)), INTERVAL_SECONDS_MAX)),
    )


def device_state(oauth: OAuth, body: bytes) -> State:
    """What a token endpoint says to a device; ``granted`` for everything that is none of the other four.

    Whether that is an answer to a grant at all is :func:`nomos_proxy.oauth.protocol.check_answer`'s to say.
    """
    try:
        answer = read_object(body)
    except AnswerUnreadable:
        return "granted"
    return _STATES.get(answer_error(oauth, answer), "granted")


def _is_address(text: str, instead: Origin | None) -> bool:
    return _ADDRESS.fullmatch(text) is not None or (instead is not None and text.startswith(f"{instead}/"))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
