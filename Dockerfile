# The whole product in one image: flows, stages, registry client and endpoint. It runs as user 10001, who is not root.
#
#   docker build --tag touchstone:0.1.0 .                          # torch from the index that pip uses by itself
#   docker build --tag touchstone:0.1.0 --build-arg TORCH_INDEX=... .     # an index with torch's CPU wheels, a tenth
#   docker build --tag touchstone:0.1.0-cuda --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#   docker run --rm --no-healthcheck --user "$(id -u):$(id -g)" --volume "$PWD:/project" touchstone:0.1.0 retrain
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/project" --publish 127.0.0.1:8100:8100 \
#     --env TOUCHSTONE_API_KEYS touchstone:0.1.0 serve --host 0.0.0.0
#
# Unbuilt where it is developed, which has no container engine: there its text is tested and linted.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# No part of the stack phones home. LOGNAME, and a home that anybody may write, for users whom the image doesn't know.
ENV DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false DISABLE_MLFLOW_INTEGRATION=TRUE \
    PYTHONUNBUFFERED=1 PATH=/opt/touchstone/bin:$PATH HOME=/home/touchstone LOGNAME=touchstone

# git is what the pipeline's workspaces are made of. The CUDA base brings no Python: the distribution's own is taken.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git ca-certificates \
    && (command -v python3 || apt-get install --yes --no-install-recommends python3 python3-venv) \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*' \
    && groupadd --gid 10001 touchstone \
    && useradd --uid 10001 --gid touchstone --create-home touchstone \
    && chmod 1777 /home/touchstone \
    && install --directory --owner touchstone --group touchstone /project

# An index with torch's CPU wheels, beside the one that pip uses by itself, whose wheels may be CUDA's and ten times the
# size; pip prefers 2.13.0+cpu to 2.13.0 where both serve one.
ARG TORCH_INDEX
WORKDIR /build
COPY requirements.lock ./
COPY scripts scripts
RUN PIP_EXTRA_INDEX_URL="${TORCH_INDEX:-}" PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 scripts/setup.sh python3 /opt/touchstone

# A container leaves nothing compiled for the next one. Files that aren't Python (templates) end in status 1, and do no harm.
RUN python -W ignore -m compileall -qq -j 0 -x '/tests/|/transformers/models/' /opt/touchstone/lib || true

# What a wheel is built of (.dockerignore lists it), the files of `touchstone init` included.
COPY . ./
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf /build/*

# The project (configs, dvc.yaml, flows, data) is mounted: a run commits, caches and registers there.
USER 10001:10001
WORKDIR /project
# Of an endpoint. A container that does something else is started with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8100/readyz', timeout=4)"]
ENTRYPOINT ["touchstone"]
CMD ["--help"]
