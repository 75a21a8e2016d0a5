"""Load from a process of its own: so many clients, each of which sends its next request when the last is answered.

    python -m benchmarks.serving.load < job.json

The job is {"host", "port", "clients", "requests": [{"path", "body"}]}; the answer {"seconds", "latencies", "errors",
"replies"}, the replies in the order of the requests. HTTP/1.1 over asyncio by hand, because a general client's own
work would share the two cores with the server that is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

SECONDS = 300.0
"""One request may take so long."""


def request_bytes(host: str, port: int, path: str, body: str) -> bytes:
    """A POST as it goes over the wire."""
    content = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> tuple[int, bytes]:
    """Send a request; its status and body."""
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(status_line.split()[1]), body


async def client(
    place: tuple[str, int], waiting: Iterator[tuple[int, bytes]], result: dict[str, Any], errors: Counter[str]
) -> None:
    """One client: the next request on the same connection until none is left."""
    reader, writer = await asyncio.open_connection(*place)
    for number, content in waiting:
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(SECONDS):
                status, body = await post(reader, writer, content)
        except (OSError, EOFError, TimeoutError) as error:
            errors[type(error).__name__] += 1
            writer.close()
            reader, writer = await asyncio.open_connection(*place)
            continue
        if status != 200:
            errors[str(status)] += 1
            continue
        result["latencies"].append(time.perf_counter() - begin)
        result["replies"][number] = body.decode()
    writer.close()


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Send all requests of a job."""
    host, port = job["host"], job["port"]
    contents = [request_bytes(host, port, each["path"], each["body"]) for each in job["requests"]]
    errors: Counter[str] = Counter()
    result: dict[str, Any] = {"latencies": [], "replies": [None] * len(contents)}
    waiting = iter(enumerate(contents))
    begin = time.perf_counter()
    await asyncio.gather(*(client((host, port), waiting, result, errors) for _ in range(job["clients"])))
    return {**result, "seconds": time.perf_counter() - begin, "errors": dict(errors)}


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
