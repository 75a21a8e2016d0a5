"""The scoring endpoint.

touchstone serve                                      # the champion of params.yaml's name
python -m touchstone.serving --name reward-sandbox    # the same

serve(root, settings, name=..., host=..., port=...)   # blocks until SIGTERM or Ctrl-C
with temporary_endpoint(root, settings, name) as client: ...    # a process of its own, gone afterwards
"""

from touchstone.client import Client, Reply
from touchstone.serving.process import temporary_endpoint
from touchstone.serving.server import serve

__all__ = ["Client", "Reply", "serve", "temporary_endpoint"]
