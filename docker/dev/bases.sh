#!/bin/sh
# Makes stand-ins for the base images where no registry can be reached, from Debian's packages alone: for tests, never for
# a deployment. The Dockerfile stays ordinary; the stand-ins come in by build arguments and by variables of compose
# (docker/dev/env). Needs root, mmdebstrap and a running engine (DOCKER_HOST).
#
#   docker/dev/bases.sh [python|python-build|redis|postgres|caddy|cuda ...]    python is what most others are made from
set -eu

docker=${DOCKER:-docker}
suite=${SUITE:-bookworm}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Debian with the Python of the service; the official image has its in /usr/local, where names lead to Debian's here.
make_python() {
    mmdebstrap --quiet --variant=minbase --include=python3.11-minimal,libpython3.11-stdlib,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='force-unsafe-io' \
        "$suite" "$work/python.tar" "deb http://deb.debian.org/debian $suite main" \
        "deb http://deb.debian.org/debian-security $suite-security main"
    root="$work/python"
    mkdir "$root"
    tar -C "$root" -xf "$work/python.tar" --exclude='./dev/*'
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
    for name in python python3 python3.11; do ln -sf /usr/bin/python3.11 "$root/usr/local/bin/$name"; done
    # A build trusts whom this machine trusts.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    tar -C "$root" -c . | $docker import --change 'CMD ["python3"]' - aslconvert-dev/python >/dev/null
}

# What pip needs to work in a build as it does on this machine: its authorities, and the one file of torch that a folder
# of wheels holds.
lay_context() {
    mkdir -p "$work/context/wheels"
    cp "$here/postgres.sh" "$work/context/"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n' >"$work/context/pip.conf"
    for folder in $(pip config get global.find-links 2>/dev/null || true); do
        for wheel in "$folder"/torch-2.13.0+cpu-*.whl; do
            [ -e "$wheel" ] || continue
            cp "$wheel" "$work/context/wheels/"
            printf 'find-links = /usr/local/share/wheels\n' >>"$work/context/pip.conf"
        done
    done
}

# The compiler of this machine, which is all that is taken from the vendor's image.
make_cuda() {
    tar -C "$(readlink -f /usr/local/cuda)" --transform 's,^\.,usr/local/cuda,S' -c . |
        $docker import --change 'CMD ["/bin/true"]' - aslconvert-dev/cuda >/dev/null
}

for what in ${*:-python python-build redis postgres caddy}; do
    case $what in
    python) make_python ;;
    cuda) make_cuda ;;
    python-build | redis | postgres | caddy)
        [ -d "$work/context" ] || lay_context
        DOCKER_BUILDKIT=1 $docker build --quiet --file "$here/bases.Dockerfile" --target "$what" --tag "aslconvert-dev/$what" \
            "$work/context" >/dev/null
        ;;
    *)
        echo "bases.sh: there is no base image $what" >&2
        exit 2
        ;;
    esac
    $docker image inspect --format "aslconvert-dev/$what {{.Size}} bytes" "aslconvert-dev/$what"
done
