"""API keys: who may ask. Held as SHA-256 digests, compared in constant time, read again when they change.

    keys = Keys.open(root, settings.serve, host)      # None: nobody is asked for one
    keys.name_of("ts_...")                            # "trainer", or None

A file has one key a line, `NAME=KEY` or `NAME=sha256:DIGEST`; lines that begin with `#` are comments.
TOUCHSTONE_API_KEYS holds the same, separated by commas or spaces. `touchstone serve --new-key NAME` makes one.

A key is random and long (`new_key`: 256 bits), so that a plain digest can't be guessed back; a short one is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.errors import ServingError
from touchstone.serving.exchange import current

if TYPE_CHECKING:  # the port is taken before anything is loaded
    from starlette.types import ASGIApp, Receive, Scope, Send

    from touchstone.settings.serve import Serve

log = logging.getLogger(__name__)

VARIABLE = "TOUCHSTONE_API_KEYS"
LOOK_SECONDS = 1.0
"""How soon a changed file is noticed."""
SHORTEST = 20
"""Characters of a key: fewer could be found by trying."""
OPEN = frozenset({"/healthz", "/readyz"})
"""Answered to everybody, so that a load balancer needs no key. By their exact spelling."""
FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})
"""What proxies say of whom they speak for."""
METRICS = "/metrics"
"""Answered to this machine without a key, to others with one."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(rf"[!-~]{{{SHORTEST},}}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Keys:
    """The keys of a file and of the environment.

    Attributes:
        file: where more may be written; None: the environment's are all.
    """

    def __init__(self, file: Path | None, environment: str) -> None:
        """
        Raises:
            ServingError: the file can't be read, is open to others, or an entry is none.
        """
        self.file = file
        self._environment = environment
        self._state: tuple[int, ...] | None = None
        self._looked = 0.0
        self._digests: dict[str, bytes] = {}
        self._read()

    @classmethod
    def open(cls, root: Path, settings: Serve, host: str) -> Keys | None:
        """The keys that the settings and the environment name; None where nobody is asked for one.

        Args:
            root: what a relative path counts from.

        Raises:
            ServingError: there are none, and `host` can be reached from elsewhere; or as the constructor.
        """
        if settings.ask_for_keys == "never":
            if not is_loopback(host):
                log.warning("%s can be reached from elsewhere, and serve.ask_for_keys is never: anybody may ask", host)
            return None
        environment = os.environ.get(VARIABLE, "")
        file = key_file(root, settings)
        keys = cls(file, environment) if file is not None or environment.strip() else None
        if keys is not None and keys.names:
            return keys
        if not is_loopback(host):
            raise ServingError(
                f"{host} can be reached from other machines, and there are no API keys: set serve.api_keys_file and "
                f"make one with `touchstone serve --new-key NAME`, or put NAME=KEY into {VARIABLE}; "
                "serve.ask_for_keys: never serves without, where something in front of the endpoint asks who it is"
            )
        return keys

    @property
    def names(self) -> list[str]:
        """Whose keys there are, sorted."""
        return sorted(self._digests)

    def name_of(self, key: str) -> str | None:
        """Whose key it is. Takes as long for a wrong key as for any."""
        self._look()
        digest = digest_of(key)
        owner = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(digest, expected):
                owner = name
        return owner

    def reload(self) -> None:
        """Read the file again with the next request, changed or not."""
        self._state, self._looked = None, 0.0

    def _look(self) -> None:
        """Read a file that has changed; if it can't be read the keys of before hold."""
        now = time.monotonic()
        if self.file is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            if _state(self.file) != self._state:
                self._read()
                log.warning("API keys read again: %s", ", ".join(self.names) or "none")
        except ServingError as error:
            log.error("the API keys of before hold: %s", error)

    def _read(self) -> None:
        digests = dict(_entries(self._environment.replace(",", " ").split(), VARIABLE))
        state = None
        if self.file is not None:
            state = _state(self.file)
            lines = [line.strip() for line in _lines(self.file)]
            entries = [line for line in lines if line and not line.startswith("#")]
            digests |= dict(_entries(entries, str(self.file)))
        self._digests, self._state = digests, state


class KeyCheck:
    """ASGI middleware: whoever comes without a key gets 401 before anything of the request is read."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and not self._admits(scope):
            await _refuse(send)
            return
        await self.app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN or (path == METRICS and _from_here(scope)):
            return True
        name = owner_of(self.keys, scope)
        if name is None:
            return False
        scope.setdefault("state", {})["client"] = name  # whose turns its work takes
        exchange = current.get()
        if exchange is not None:
            exchange.key = name
        return True


def new_key(file: Path | None, name: str) -> tuple[str, str]:
    """Make a key; returns it with the entry that stands for it, which is appended to the file where there is one.

    Raises:
        ServingError: the name is none or is taken, or the file can't be written.
    """
    if not _NAME.fullmatch(name):
        raise ServingError(f"{name!r} is no name for a key: up to 64 letters, digits, '.', '_' and '-'")
    key = f"ts_{secrets.token_urlsafe(32)}"
    entry = f"{name}=sha256:{digest_of(key).hex()}"
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and name in Keys(file, "").names:
            raise ServingError(f"{file} has a key of {name} already; take its line out, or choose another name")
        # Somebody's editor may have left no last newline.
        ends_in_a_line = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(descriptor, "a", encoding="utf-8") as lines:
                lines.write(("" if ends_in_a_line else "\n") + entry + "\n")
        except OSError as error:
            raise ServingError(f"{file} can't be written: {os.strerror(error.errno or 0).lower()}") from None
    return key, entry


def key_file(root: Path, settings: Serve) -> Path | None:
    """Where the keys lie."""
    return None if settings.api_keys_file is None else root / Path(settings.api_keys_file).expanduser()


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def digest_of(key: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(key.encode()).digest()


def _entries(entries: list[str], place: str) -> Iterator[tuple[str, bytes]]:
    """Names and digests; never says what a faulty entry holds."""
    seen = set()
    for number, entry in enumerate(entries, start=1):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise ServingError(f"entry {number} of {place} is not NAME=KEY or NAME=sha256:DIGEST")
        if name in seen:
            raise ServingError(f"entry {number} of {place} names {name} a second time")
        seen.add(name)
        digest = _DIGEST.fullmatch(value)
        if digest is None and (value.startswith("sha256:") or not _KEY.fullmatch(value)):
            raise ServingError(
                f"the key of {name} in {place} is neither sha256: with 64 hex digits nor a key of at least {SHORTEST} "
                "ASCII characters without spaces; `touchstone serve --new-key NAME` makes one"
            )
        yield name, bytes.fromhex(digest[1]) if digest else digest_of(value)


def _state(file: Path) -> tuple[int, ...]:
    """What changes when the file does.

    Raises:
        ServingError: it isn't there, or is open to others.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise ServingError(
            f"serve.api_keys_file: {file} can't be read ({os.strerror(error.errno or 0).lower()}); "
            "`touchstone serve --new-key NAME` makes it"
        ) from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ServingError(f"{file} holds API keys and is open to other users; run: chmod 600 {file}")
    return status.st_mtime_ns, status.st_size, status.st_ino


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"{file} can't be read as API keys ({type(error).__name__})") from None


def owner_of(keys: Keys, scope: Scope) -> str | None:
    """Whose key a request comes with; None without a valid one."""
    # All are looked up: a proxy may put its own credentials beside the client's.
    names = [keys.name_of(key) for key in _presented(scope)]
    return next((name for name in names if name is not None), None)


def _presented(scope: Scope) -> Iterator[str]:
    """Every key that a request comes with: a bearer token, X-API-Key, or Basic credentials from a URL."""
    for header, value in scope["headers"]:
        text = value.decode("latin-1")
        if header == b"x-api-key":
            yield text.strip()
        elif header == b"authorization":
            scheme, _, credentials = text.partition(" ")
            if scheme.lower() == "bearer":
                yield credentials.strip()
            elif scheme.lower() == "basic":
                yield from _basic(credentials.strip())


def _basic(credentials: str) -> Iterator[str]:
    """The password of http://anybody:KEY@host, or of http://KEY@host the user."""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return
    yield password or user


def _from_here(scope: Scope) -> bool:
    """Whether a request was sent on this machine, and not through a proxy on it."""
    if any(header in FORWARDED for header, _ in scope["headers"]):
        return False
    return scope.get("client") is not None and is_loopback(scope["client"][0])


async def _refuse(send: Send) -> None:
    from touchstone.serving.refusals import error_body  # the web framework comes with it

    message = (
        "this endpoint asks for an API key: send it as `Authorization: Bearer KEY`, as X-API-Key, or in the URL "
        "(http://any:KEY@host)"
    )
    content = json.dumps(error_body("unauthorized", message)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"www-authenticate", b'Bearer realm="touchstone"'),
        (b"www-authenticate", b'Basic realm="touchstone", charset="UTF-8"'),
        (b"connection", b"close"),  # the body is not wanted
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": content})
