#!/bin/sh
# Makes the secrets of a deployment and `.env` beside docker-compose.yml. What is there already is kept, so that it can be
# run again. There are no default secrets: without this, compose refuses to start.
#
#   docker/init.sh [SITE]    SITE: the name that clients use, localhost by default; a public one gets a certificate
set -eu

cd "$(dirname "$0")/.."
site=${1:-localhost}
folder=docker/secrets
# Others of this machine cannot enter the folder. The files are open, since each container has another user.
umask 077
mkdir -p "$folder"

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
make() {
    if [ -s "$folder/$1" ]; then return 0; fi
    printf '%s\n' "$2" >"$folder/.new"
    chmod 0444 "$folder/.new"
    mv "$folder/.new" "$folder/$1"
    echo "made $folder/$1"
}

make secret "$(random)"
make postgres_password "$(random)"
make database_url "postgresql://aslconvert:$(cat "$folder/postgres_password")@postgres/aslconvert"
make redis_conf "requirepass $(random)"
make redis_url "redis://:$(sed -n 's/^requirepass //p' "$folder/redis_conf")@redis:6379/0"
make grafana_password "$(random)"
if [ ! -e .env ]; then
    printf 'ASLCONVERT_SECRETS=./%s\nASLCONVERT_SITE=%s\nASLCONVERT_VERSION=latest\n' "$folder" "$site" >.env
    echo "made .env"
fi
