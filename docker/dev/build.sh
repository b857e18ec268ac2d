#!/bin/sh
# Builds images on the stand-ins of bases.sh: `docker/dev/build.sh api worker-cpu`. SOURCES: those of another version.
# Where a folder of wheels holds torch for the CPU, worker-cuda gets that one too: its kernels compile, and use no GPU.
set -eu
cd "${SOURCES:-$(dirname "$0")/../..}"
for target in "${@:-api}"; do
    DOCKER_BUILDKIT=1 ${DOCKER:-docker} build --file docker/Dockerfile --target "$target" --tag "aslconvert-$target:${TAG:-latest}" \
        --build-arg PYTHON_IMAGE=aslconvert-dev/python --build-arg BUILD_IMAGE=aslconvert-dev/python-build \
        --build-arg CUDA_IMAGE=aslconvert-dev/cuda --build-arg TORCH_INDEX= --build-arg CUDA_TORCH_INDEX= \
        --build-arg "REVISION=${REVISION:-$(git rev-parse HEAD)}" .
done
