# Images of docker-compose.yml: `milonga` (all services and the client), `redis` and `proxy`, each Debian's own packages on BASE.
# No registry at hand: make a base with debootstrap, `docker import` it, and give its name as BASE.
ARG BASE=debian:bookworm-slim

FROM $BASE AS redis
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/locale/* && usermod -u 971 redis && groupmod -g 971 redis && \
    install -d -o redis -g redis -m 750 /data && chown -R redis:redis /var/lib/redis
COPY packaging/compose/redis.conf /etc/milonga-redis.conf
USER redis
WORKDIR /data
CMD ["redis-server", "/etc/milonga-redis.conf"]

FROM $BASE AS proxy
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends haproxy && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/locale/*
COPY packaging/compose/haproxy.cfg /etc/haproxy/haproxy.cfg
USER haproxy
# USR1 lets what is under way end; TERM would not
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]

FROM $BASE AS build
# what the first list of tools/deps has, without what only runs
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc libc6-dev make pkg-config musl-tools libh2o-evloop-dev libssl-dev libhiredis-dev libmsgpack-dev \
        libcurl4-openssl-dev uuid-dev libarchive-dev libjansson-dev libexpat1-dev && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
COPY Makefile ./
COPY packaging/install.mk packaging/
COPY tests/tests.mk tests/
COPY libshared libshared
COPY services services
COPY autodriver autodriver
COPY hostdriver hostdriver
COPY client client
COPY docs/openapi.yaml docs/
ARG VERSION=unknown
RUN make -s -j"$(nproc)" VERSION="$VERSION" all && install -Dst /out/usr/bin build/milonga && \
    install -Dst /out/usr/libexec/milonga build/milonga-api build/milonga-dispatcher build/milonga-vmm build/autodriver build/hostdriver

FROM $BASE AS milonga
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libh2o-evloop0.13 libhiredis0.14 libcurl4 libuuid1 libarchive13 libjansson4 libexpat1 libssl3 ca-certificates openssh-client && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/locale/*
# Volumes take owner and mode from the folders that they cover; the number is what the files on them remember.
RUN groupadd -r -g 970 milonga && useradd -r -u 970 -g milonga -d /var/lib/milonga -s /usr/sbin/nologin milonga && \
    install -d -o milonga -g milonga -m 750 /var/lib/milonga && \
    install -d -o milonga -g milonga -m 755 /var/lib/milonga-machines && install -d -m 755 /conf
COPY --from=build /out/ /
COPY packaging/compose/milonga-init packaging/compose/milonga-vmm-start packaging/compose/milonga-healthy /usr/libexec/milonga/
USER milonga
WORKDIR /var/lib/milonga
ENV MILONGA_CONFIG=/conf/milonga.conf MILONGA_DATA_DIR=/var/lib/milonga
