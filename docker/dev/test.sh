#!/bin/sh
# `make compose-test`: builds the images and runs tests/compose. Where no engine runs and this is root, it starts one in a
# folder of its own and ends it; where no registry is reached, it makes the base images of Debian's packages.
set -eu

cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
place=${COMPOSE_TEST_FOLDER:-/tmp/aslconvert-compose-test}

if ! docker info >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v dockerd >/dev/null; then
    mkdir -p "$place/exec"
    dockerd --data-root "$place/root" --exec-root "$place/exec" --pidfile "$place/pid" -H "unix://$place/docker.sock" \
        --storage-driver=overlay2 --mtu 1400 >"$place/dockerd.log" 2>&1 &
    trap 'kill "$(cat "$place/pid")"' EXIT
    export DOCKER_HOST="unix://$place/docker.sock"
    for _ in $(seq 60); do
        if docker info >/dev/null 2>&1; then break; fi
        sleep 1
    done
fi

if docker info >/dev/null 2>&1; then
    if docker pull --quiet python:3.11.14-slim-bookworm >/dev/null 2>&1; then
        for target in api worker-cpu; do
            docker build --file docker/Dockerfile --target "$target" --tag "aslconvert-$target" .
        done
    else
        for name in python python-build redis postgres caddy; do
            docker image inspect "aslconvert-dev/$name" >/dev/null 2>&1 || docker/dev/bases.sh "$name"
        done
        docker/dev/build.sh api worker-cpu
    fi
else
    echo "NO CONTAINER ENGINE HERE: only what needs none is tested." >&2
fi
"$python" -m pytest tests/compose -v -p no:randomly
