#!/bin/sh
# Prints the bill of materials of an image in CycloneDX: its Python and Debian packages. It needs the engine and no network.
#
#   docker/sbom.sh aslconvert-api >api.cdx.json
set -eu
image=${1:?Name an image, such as aslconvert-api.}
digest=$(docker image inspect --format '{{.Id}}' "$image")
docker run --rm --interactive --network none --read-only --cap-drop ALL --entrypoint python "$image" -B - "$image" "$digest" \
    <"$(dirname "$0")/sbom.py"
