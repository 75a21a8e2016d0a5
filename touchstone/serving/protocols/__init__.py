"""The wire protocols, one a file: each has its request and reply bodies, and a `router` over the same service.

`shared_paths` has the two paths that vLLM and SGLang both claim; `bodies` what several protocols' bodies share.
"""
