#!/bin/sh
# Reads secrets from files, so that none stands in a compose file, an image or `docker inspect`, and names the worker
# after its container, so that `aslconvert admin drain` can be told which one.
set -eu

for name in ASLCONVERT_SECRET ASLCONVERT_DATABASE_URL ASLCONVERT_REDIS AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if [ ! -r "$file" ]; then
        echo "aslconvert: ${name}_FILE names $file, which cannot be read; docker/init.sh makes the secrets" >&2
        exit 70
    fi
    value=$(cat "$file")
    export "$name=$value"
    unset "${name}_FILE"
done

if [ "${1:-}" = worker ]; then
    shift
    set -- aslconvert worker --name "${ASLCONVERT_WORKER:-$(hostname)}" --metrics-address 0.0.0.0 "$@"
fi
exec "$@"
