"""A server as OpenRLHF's `openrlhf.cli.serve_rm` works: an async route, and in it a forward pass that blocks.

    python -m benchmarks.serving.servers.serve_rm CHECKPOINT PORT

Bound to loopback and without the log lines of the original, which prints every reply.
"""

from __future__ import annotations

import sys

from benchmarks.serving.servers.padded import Padded

BATCH = 32


def main() -> None:
    """Serve until it is ended."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    model = Padded(sys.argv[1])
    app = FastAPI()

    async def get_reward(request: Request) -> JSONResponse:
        queries = (await request.json())["query"]
        rewards = model.in_batches(queries, BATCH)
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {"dummy_scores": rewards}})

    # Annotations are texts here, and the names that they name are this function's.
    get_reward.__annotations__ = {"request": Request, "return": JSONResponse}
    app.post("/get_reward", response_model=None)(get_reward)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
