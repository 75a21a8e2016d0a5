"""The wire protocols, one a file: each has its request and reply bodies, and a `router` over the same service."""
