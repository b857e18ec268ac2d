#!/bin/sh
# Makes stand-ins for the base images where no registry can be reached, from Debian's packages alone: for tests, never for
# a deployment. The Dockerfile stays ordinary; the stand-ins come in by build arguments and by variables of compose
# (docker/dev/env). Needs root, mmdebstrap and a running engine (DOCKER_HOST).
#
#   docker/dev/bases.sh [python|python-build|redis|postgres|caddy ...]
set -eu

docker=${DOCKER:-docker}
suite=${SUITE:-bookworm}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What pip needs to work in a build as it does on this machine: its settings, the authorities that they trust, and the
# one file of torch that a folder of wheels holds.
take_pip() {
    root=$1
    mkdir -p "$root/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n' >"$root/etc/pip.conf"
}

take_wheels() {
    root=$1
    for folder in $(pip config get global.find-links 2>/dev/null || true); do
        for wheel in "$folder"/torch-2.13.0+cpu-*.whl; do
            [ -e "$wheel" ] || continue
            mkdir -p "$root/usr/local/share/wheels"
            cp "$wheel" "$root/usr/local/share/wheels/"
            printf 'find-links = /usr/local/share/wheels\n' >>"$root/etc/pip.conf"
        done
    done
}

# NAME, packages with commas, then settings of the image.
bootstrap() {
    mmdebstrap --quiet --variant=minbase --include="$2" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='force-unsafe-io' \
        "$suite" "$work/$1.tar" "deb http://deb.debian.org/debian $suite main" \
        "deb http://deb.debian.org/debian-security $suite-security main"
    mkdir "$work/$1"
    tar -C "$work/$1" -xf "$work/$1.tar" --exclude='./dev/*'
    rm "$work/$1.tar"
    rm -rf "$work/$1"/var/lib/apt/lists/* "$work/$1"/var/cache/apt/*.bin
}

import() {
    name=$1
    shift
    tar -C "$work/$name" -c . | $docker import "$@" - "aslconvert-dev/$name" >/dev/null
    rm -rf "${work:?}/$name"
    $docker image inspect --format "aslconvert-dev/$name {{.Size}} bytes" "aslconvert-dev/$name"
}

for what in ${*:-python python-build redis postgres caddy}; do
    case $what in
    python)
        # The Python of the official image lies in /usr/local; Debian's does under the same names here.
        bootstrap python python3.11-minimal,libpython3.11-stdlib,ca-certificates
        for name in python python3 python3.11; do ln -sf /usr/bin/python3.11 "$work/python/usr/local/bin/$name"; done
        take_pip "$work/python"
        import python --change 'CMD ["python3"]'
        ;;
    python-build)
        # The official image has pip and venv too; a second stand-in keeps them, and torch, out of what is measured.
        bootstrap python-build python3.11-venv,python3.11-dev,python3-pip,ca-certificates,g++,cmake,ninja-build
        for name in python python3 python3.11; do ln -sf /usr/bin/python3.11 "$work/python-build/usr/local/bin/$name"; done
        take_pip "$work/python-build"
        take_wheels "$work/python-build"
        import python-build --change 'CMD ["python3"]'
        ;;
    redis)
        bootstrap redis redis-server
        chroot "$work/redis" install -d -o redis -g redis /data
        import redis --change 'USER redis' --change 'WORKDIR /data' --change 'CMD ["redis-server"]'
        ;;
    postgres)
        bootstrap postgres postgresql-15
        install -m 755 "$here/postgres.sh" "$work/postgres/usr/local/bin/docker-entrypoint.sh"
        mkdir -p "$work/postgres/var/lib/postgresql/data" "$work/postgres/run/postgresql"
        chroot "$work/postgres" chown -R postgres:postgres /var/lib/postgresql /run/postgresql
        chmod 3777 "$work/postgres/run/postgresql"
        import postgres --change 'USER postgres' --change 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin' \
            --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["postgres"]'
        ;;
    caddy)
        bootstrap caddy caddy,ca-certificates
        import caddy --change 'CMD ["caddy","run","--config","/etc/caddy/Caddyfile"]' --change 'ENV XDG_DATA_HOME=/data' \
            --change 'ENV XDG_CONFIG_HOME=/config'
        ;;
    *)
        echo "bases.sh: there is no base image $what" >&2
        exit 2
        ;;
    esac
done
