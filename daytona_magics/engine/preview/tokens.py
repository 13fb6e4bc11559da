"""Who may see a preview: standard tokens, which end with the sandbox's run, and signed ones, which expire.

A standard token is for programs: made anew at each start of a sandbox and sent in a header. A signed one is
part of the address, for browsers: it names one port of one sandbox until a moment on the wall clock (it
survives restarts), and can be taken back before. One kind is never good for the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from weakref import WeakKeyDictionary

from daytona_magics.engine.launch.sandbox import SandboxProcess
from daytona_magics.engine.life.sandbox import Sandbox
from daytona_magics.engine.store.database import Database

#: Seconds a signed token lives: unless asked otherwise, and at most.
DEFAULT_SECONDS, MAX_SECONDS = 60, 86_400
#: Seconds a browser's cookie is good for.
COOKIE_SECONDS = 3600
#: Most signed tokens at once.
MAX_SIGNED = 10_000
#: Longer than a sandbox's id, so that a host name says which of the two it holds.
TOKEN_LENGTH = 26
#: Browsers write host names in lower case, and a label has 63 characters at most.
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_META = "signed_previews"


@dataclass(frozen=True)
class Signed:
    """One signed token; ``expires`` and ``made`` in seconds since 1970."""

    sandbox: str
    port: int
    expires: float
    made: float


class Tokens:
    """All tokens of the engine.

    Args:
        database: where signed tokens are remembered; standard ones are not.
        clock: wall-clock seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._standard: WeakKeyDictionary[SandboxProcess, str] = WeakKeyDictionary()
        self._signed: dict[str, Signed] = {}
        # What is remembered is written whole: two changes at once would undo each other.
        self._lock = asyncio.Lock()
        # The newest wall-clock time seen: setting the clock back gives no token a longer life.
        self._latest = 0.0

    async def load(self) -> None:
        """Read what an earlier engine remembered."""
        stored = await self._database.get_meta(_META) or {}
        self._signed = {token: Signed(**fields) for token, fields in stored.items()}
        self._latest = max((entry.made for entry in self._signed.values()), default=0.0)

    def standard(self, sandbox: Sandbox) -> str:
        """The token of a started sandbox for all its ports. Raises ApiError 400 when it is not started."""
        process = sandbox.started
        if process not in self._standard:
            self._standard[process] = self._letters()
        return self._standard[process]

    def is_standard(self, sandbox: Sandbox, token: str) -> bool:
        """Whether `token` is the sandbox's present standard token."""
        known = self._standard.get(sandbox.process, "") if sandbox.process is not None else ""
        return bool(known) and hmac.compare_digest(known.encode(), token.encode("utf-8", "replace"))

    def cookie(self, sandbox: Sandbox, port: int) -> str:
        """What a browser keeps in place of the standard token: good for one port, for an hour of this run."""
        expires = int(self._now()) + COOKIE_SECONDS
        return f"{expires}-{self._seal(sandbox, port, expires)}"

    def is_cookie(self, sandbox: Sandbox, port: int, value: str) -> bool:
        """Whether `value` was made by `cookie` for this port and is still good."""
        said, _, seal = value.partition("-")
        if sandbox.process not in self._standard or not (
            said.isascii() and said.isdigit() and len(said) < 16
        ):
            return False
        right = self._seal(sandbox, port, int(said))
        return int(said) > self._now() and hmac.compare_digest(
            right.encode(), seal.encode("utf-8", "replace")
        )

    def _seal(self, sandbox: Sandbox, port: int, expires: int) -> str:
        said = f"cookie:{sandbox.record.id}:{port}:{expires}"
        return hmac.new(self.standard(sandbox).encode(), said.encode(), hashlib.sha256).hexdigest()

    @staticmethod
    def _letters() -> str:
        return "".join(secrets.choice(_LETTERS) for _ in range(TOKEN_LENGTH))

    async def sign(self, sandbox: str, port: int, seconds: int) -> str:
        """A new token for `port` of the sandbox, remembered before it is given out."""
        async with self._lock:
            now = self._now()
            live = {token: entry for token, entry in self._signed.items() if entry.expires > now}
            while len(live) >= MAX_SIGNED:
                del live[min(live, key=lambda token: live[token].expires)]
            token = self._letters()
            live[token] = Signed(sandbox, port, now + seconds, now)
            await self._remember(live)
        return token

    def look_up(self, token: str) -> Signed | None:
        """What a signed token stands for; None when it is unknown or has expired."""
        entry = self._signed.get(token)
        return entry if entry is not None and entry.expires > self._now() else None

    async def expire(self, token: str, sandbox: str, port: int) -> bool:
        """Take a token back; False when there is none such for this port."""
        async with self._lock:
            entry = self._signed.get(token)
            if entry is None or (entry.sandbox, entry.port) != (sandbox, port):
                return False
            await self._remember({other: kept for other, kept in self._signed.items() if other != token})
        return True

    async def forget(self) -> None:
        """Take all signed tokens back."""
        async with self._lock:
            await self._remember({})

    async def _remember(self, signed: dict[str, Signed]) -> None:
        await self._database.set_meta(_META, {token: asdict(entry) for token, entry in signed.items()})
        self._signed = signed

    def _now(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest
