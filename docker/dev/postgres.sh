#!/bin/sh
# The part of the official image's entry point that docker-compose.yml relies on.
set -eu
data=${PGDATA:-/var/lib/postgresql/data/pgdata}
if [ ! -s "$data/PG_VERSION" ]; then
    # Made beside and renamed when whole: whoever is interrupted here begins again.
    rm -rf "$data.new"
    initdb --pgdata "$data.new" --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" --auth scram-sha-256 \
        --encoding UTF8 >/dev/null
    echo "host all all all scram-sha-256" >>"$data.new/pg_hba.conf"
    pg_ctl -D "$data.new" -w -o "-c listen_addresses=''" start >/dev/null
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -D "$data.new" -w stop >/dev/null
    mv "$data.new" "$data"
fi
exec "$@" -D "$data" -c "listen_addresses=*"
