# `resnetlab serve` in a container: slim Python, a non-root user, no build tools in the final image.
#
#   docker build --tag resnetlab .
#   docker run --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 \
#     --mount type=bind,source="$PWD/runs/photos-resnet20-seed0",target=/model,readonly resnetlab
#
# Mount a run directory at /model, or a folder with a model file: `… resnetlab /model/resnet50.onnx --max-batch 32`.
# On x86-64, PyPI's PyTorch includes CUDA: gigabytes that a CPU server does not use. Set PIP_FLAGS to an index with the
# CPU build, as for `make`:  docker build --build-arg PIP_FLAGS="--extra-index-url …" --tag resnetlab .
#
# constraints.txt pins the Python packages. The base is pinned to a minor version of Python and a release of Debian, so
# that a rebuild includes their security fixes. For a reproducible base, pass its digest:
# --build-arg BASE=python@sha256:…

ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG PIP_FLAGS=""
WORKDIR /src
RUN python -m venv --without-pip /opt/resnetlab
# Dependencies are installed for an empty package first, so that their layer stays cached when only the code changes.
# Only wheels: this image has no compiler.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p src/resnetlab && touch src/resnetlab/__init__.py && \
    python -m pip --python /opt/resnetlab/bin/python install --no-cache-dir --only-binary :all: \
      --constraint constraints.txt ${PIP_FLAGS} '.[serve,export]' && \
    rm -r build src
COPY src src
RUN python -m pip --python /opt/resnetlab/bin/python install --no-cache-dir --no-deps --force-reinstall ${PIP_FLAGS} .

FROM ${BASE}
RUN useradd --system --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin resnetlab
COPY --from=build /opt/resnetlab /opt/resnetlab
# The root may be read-only: caches of libraries go to /tmp. `--backend auto` caches its selection next to the model if
# that folder is writable; otherwise it measures at each start.
ENV PATH=/opt/resnetlab/bin:$PATH HOME=/tmp USER=resnetlab XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# /healthz checks that the server runs; /readyz that the model is loaded. Not urllib: it uses the proxy settings.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client; \
line = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); line.request('GET', '/healthz'); \
raise SystemExit(line.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnetlab", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model"]
