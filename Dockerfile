# The whole product in one image: flows, stages, registry client and endpoint.
#
#   docker build -t touchstone --build-arg TORCH_INDEX=... .    # an index with torch's CPU wheels
#   docker build -t touchstone:cuda --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#   docker run --rm -v "$PWD:/project" touchstone retrain
#   docker run --rm -p 127.0.0.1:8100:8100 -v "$PWD:/project" -e TOUCHSTONE_API_KEYS touchstone serve --host 0.0.0.0
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# The default index serves CUDA wheels; those for CPUs, on torch's own index, are a tenth of their size.
ARG TORCH_INDEX=
ENV DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false DVC_NO_ANALYTICS=1 \
    HF_HUB_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false DISABLE_MLFLOW_INTEGRATION=TRUE \
    PYTHONUNBUFFERED=1 PATH=/opt/touchstone/bin:$PATH

# The CUDA base brings no Python; git is what the pipeline's workspaces are made of.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git ca-certificates \
    && (command -v python3.11 || (apt-get install -y --no-install-recommends software-properties-common \
        && add-apt-repository -y ppa:deadsnakes/ppa && apt-get install -y --no-install-recommends python3.11 python3.11-venv)) \
    && rm -rf /var/lib/apt/lists/*

# pip prefers 2.13.0+cpu to 2.13.0 where an index serves both.
WORKDIR /build
COPY requirements.lock ./
COPY scripts scripts
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 scripts/setup.sh python3.11 /opt/touchstone

# A container leaves nothing compiled for the next one. Files that aren't Python (templates) end in status 1, and do no harm.
RUN python -W ignore -m compileall -qq -j 0 -x '/tests/|/transformers/models/' /opt/touchstone/lib || true

COPY pyproject.toml README.md ./
COPY touchstone touchstone
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# The project (configs, dvc.yaml, flows, data) is mounted: a run commits, caches and registers there.
WORKDIR /project
RUN git config --system --add safe.directory /project
ENTRYPOINT ["touchstone"]
CMD ["--help"]
