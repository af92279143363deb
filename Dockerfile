# `resnetlab serve` in a container: slim Python, not as root, nothing in it that built it.
#
#   docker build --tag resnetlab .
#   docker run --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 \
#     --mount type=bind,source="$PWD/runs/photos-resnet20-seed0",target=/model,readonly resnetlab
#
# /model is a run directory, or a folder with a file in it: `… resnetlab /model/resnet50.onnx --max-batch 32`.
# On x86-64 the usual index has PyTorch with CUDA, gigabytes that a server on the CPU never opens; PIP_FLAGS names an
# index with the CPU build, as for `make`:  docker build --build-arg PIP_FLAGS="--extra-index-url …" --tag resnetlab .
#
# What pip installs is pinned by constraints.txt. The base is pinned to a minor version of Python and a release of
# Debian, so that building again takes up their security fixes; who needs the very same base again names its digest:
# --build-arg BASE=python@sha256:…

ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG PIP_FLAGS=""
WORKDIR /src
RUN python -m venv --without-pip /opt/resnetlab
# What it depends on is a layer of its own, which stays when only the code has changed: an empty package asks for it.
# Wheels alone, since nothing here can compile.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p src/resnetlab && touch src/resnetlab/__init__.py && \
    python -m pip --python /opt/resnetlab/bin/python install --no-cache-dir --only-binary :all: \
      --constraint constraints.txt ${PIP_FLAGS} '.[serve,export,explain]' && \
    rm -r build src
COPY src src
RUN python -m pip --python /opt/resnetlab/bin/python install --no-cache-dir --no-deps --force-reinstall ${PIP_FLAGS} .

FROM ${BASE}
RUN useradd --system --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin resnetlab
COPY --from=build /opt/resnetlab /opt/resnetlab
# The root may be read-only; what libraries want to keep goes to /tmp. The choice of `--backend auto` is kept beside
# the model where that can be written, else it is measured at each start.
ENV PATH=/opt/resnetlab/bin:$PATH HOME=/tmp USER=resnetlab XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# /healthz says that the server lives; whether the network is ready to answer, /readyz. Not urllib: it heeds proxies.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client; \
line = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); line.request('GET', '/healthz'); \
raise SystemExit(line.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnetlab", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model"]
