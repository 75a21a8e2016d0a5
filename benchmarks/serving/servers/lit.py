"""LitServe as its documentation batches: up to 32 requests together, or what came within 5 ms.

python -m benchmarks.serving.servers.lit CHECKPOINT PORT
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.serving.servers.padded import Padded

BATCH, SECONDS = 32, 0.005


def main() -> None:
    """Serve until it is ended."""
    import litserve

    checkpoint = sys.argv[1]

    class Rewards(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.model = Padded(checkpoint)

        def decode_request(self, request: dict[str, Any]) -> list[str]:
            return list(request["texts"])

        def predict(self, requests: list[list[str]]) -> list[list[float]]:
            rewards = iter(self.model.in_batches([text for texts in requests for text in texts], BATCH))
            return [[next(rewards) for _ in texts] for texts in requests]

        def batch(self, inputs: list[list[str]]) -> list[list[str]]:
            return inputs

        def unbatch(self, output: list[list[float]]) -> list[list[float]]:
            return output

        def encode_response(self, output: list[float]) -> dict[str, list[float]]:
            return {"rewards": output}

    api = Rewards(max_batch_size=BATCH, batch_timeout=SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
