"""LitServe as its documentation batches: up to 32 requests together, or what came within 5 ms.

python -m benchmarks.serving.servers.lit CHECKPOINT PORT
"""

from __future__ import annotations

import sys

from benchmarks.serving.servers.padded import Padded

try:
    from litserve import LitAPI, LitServer
except ImportError:  # its own environment alone has it
    LitAPI, LitServer = object, None

BATCH, SECONDS = 32, 0.005


class Rewards(LitAPI):
    """Sent to a worker process, so it stands in the module."""

    def setup(self, device: str) -> None:
        """Load, in the worker."""
        self.model = Padded(sys.argv[1])

    def decode_request(self, request):  # LitServe makes a schema of annotations
        """A request's texts."""
        return list(request["texts"])

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests side by side."""
        return inputs

    def predict(self, requests: list[list[str]]) -> list[list[float]]:
        """Rewards of all requests' texts."""
        rewards = iter(self.model.in_batches([text for texts in requests for text in texts], BATCH))
        return [[next(rewards) for _ in texts] for texts in requests]

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Each request's own."""
        return output

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """A request's rewards."""
        return {"rewards": output}


def main() -> None:
    """Serve until it is ended."""
    api = Rewards(max_batch_size=BATCH, batch_timeout=SECONDS)
    server = LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
