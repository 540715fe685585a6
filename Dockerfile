# iterreg for the command line. The container's user has no rights, and its file system may be read-only.
#
#   docker build -t iterreg .                            for the CPU
#   docker build -t iterreg --build-arg DEVICE=cuda .    for NVIDIA GPUs
#
#   docker run --rm --read-only --tmpfs /tmp --user "$(id -u):$(id -g)" \
#       -v iterreg-cache:/cache -v "$PWD":/data iterreg thorax --fixed a.nii.gz --moving b.nii.gz --out result

FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

FROM python:3.11-slim
ARG DEVICE=cpu
COPY --from=build /wheels /wheels
# PyTorch's default build brings CUDA, and Triton, which compiles with gcc at the first run. uv knows
# where PyTorch keeps its smaller build for the CPU.
# hadolint ignore=DL3008
RUN set -eu; \
    pip install --no-cache-dir 'uv>=0.13,<1'; \
    case "$DEVICE" in \
        cpu) uv pip install --system --no-cache --torch-backend cpu /wheels/*.whl ;; \
        cuda) apt-get update; \
              apt-get install --yes --no-install-recommends gcc libc6-dev; \
              rm -rf /var/lib/apt/lists/*; \
              uv pip install --system --no-cache /wheels/*.whl ;; \
        *) echo "DEVICE is cpu or cuda, got $DEVICE" >&2; exit 1 ;; \
    esac; \
    pip uninstall --yes --root-user-action ignore uv

# All that a run keeps for the next one lies in /cache: compiled code, the regions of slices, weights.
RUN useradd --uid 1000 --home-dir /cache --no-create-home iterreg \
    && mkdir -m 1777 /cache /data
ENV HOME=/cache \
    XDG_CACHE_HOME=/cache \
    ITERREG_CACHE=/cache/iterreg \
    ITERREG_WEIGHTS=/cache/weights \
    MPLCONFIGDIR=/cache/matplotlib \
    TRITON_CACHE_DIR=/cache/triton
USER 1000
WORKDIR /data
VOLUME /cache
ENTRYPOINT ["iterreg"]
CMD ["--help"]
