"""The version that a request insists on, by header, whatever protocol its body speaks.

    X-Touchstone-Version: 7              the version with this number
    X-Touchstone-Digest: 3f2a90c41b7d    the version whose digest begins so

An RL run that pins trains on one reward from its first step to its last. `read_pin` is a dependency of the whole
application, so no protocol's routes can forget it; answers carry both headers, and X-Touchstone-Model, back.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header

MODEL_HEADER = "X-Touchstone-Model"
VERSION_HEADER = "X-Touchstone-Version"
DIGEST_HEADER = "X-Touchstone-Digest"


@dataclass(frozen=True)
class Pin:
    """What an answer's stamp must be.

    Attributes:
        version: the number; None: any.
        digest: how the digest begins; empty: any.
    """

    version: int | None = None
    digest: str = ""

    def __bool__(self) -> bool:
        """Whether it asks for anything."""
        return self.version is not None or bool(self.digest)

    def __str__(self) -> str:
        number = [] if self.version is None else [f"version {self.version}"]
        return " with ".join([*number, *([f"digest {self.digest}..."] if self.digest else [])])

    def fits(self, version: int, digest: str) -> bool:
        """Whether this stamp is meant."""
        return self.version in (None, version) and digest.startswith(self.digest)


ANY = Pin()
"""No pin: any version may answer."""

_PIN: ContextVar[Pin] = ContextVar("pin", default=ANY)


async def read_pin(
    version: Annotated[
        int | None, Header(alias=VERSION_HEADER, ge=0, description="Answer by this version, or not at all.")
    ] = None,
    digest: Annotated[
        str | None,
        Header(
            alias=DIGEST_HEADER,
            pattern="^[0-9a-f]{8,64}$",
            description="Answer by the version whose digest begins so, or not at all.",
        ),
    ] = None,
) -> None:
    """Read a request's pin, for `pinned` to give while it is answered.

    It is async on purpose: what a plain function sets is gone when its thread's context is.
    """
    _PIN.set(Pin(version, digest or ""))


def pinned() -> Pin:
    """The pin of the request that is being answered."""
    return _PIN.get()
