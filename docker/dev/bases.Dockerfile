# The stand-ins of bases.sh that are more than Debian with its Python; its context is a folder that bases.sh lays out.
FROM aslconvert-dev/python AS installing
RUN apt-get update

FROM installing AS python-build
# The official image has pip and venv too; a second stand-in keeps them, and torch, out of what is measured.
RUN apt-get install -y --no-install-recommends python3.11-venv python3.11-dev python3-pip g++ cmake ninja-build
COPY wheels /usr/local/share/wheels
COPY pip.conf /etc/pip.conf
CMD ["python3"]

FROM installing AS redis
RUN apt-get install -y --no-install-recommends redis-server && install -d -o redis -g redis /data
USER redis
WORKDIR /data
CMD ["redis-server"]

FROM installing AS postgres
RUN apt-get install -y --no-install-recommends postgresql-15 \
    && install -d -o postgres -g postgres /var/lib/postgresql/data && install -d -o postgres -g postgres -m 3777 /run/postgresql
COPY --chmod=0755 postgres.sh /usr/local/bin/docker-entrypoint.sh
USER postgres
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM installing AS caddy
RUN apt-get install -y --no-install-recommends caddy
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile"]
