#ifndef MILONGA_DOCKER_HOSTS_H
#define MILONGA_DOCKER_HOSTS_H

/* Between docker_hosts.c (the driver: which engine gets a machine) and docker_host.c (an engine's
 * way there, and whether it is used). Each engine is a backend of driver_docker behind a tunnel;
 * machines of it are driver_docker's, wrapped.
 *
 * Each host has a thread of its own that connects, asks again and again, and judges:
 *
 *   OUT --tunnel, layers, sweep, autodriver, one machine as a proof--> UP --no answer, the tunnel
 *    ^                                                                 |     ends, or machines fail
 *    +------------------ backoff with jitter, reason kept -------------+     in a row
 *
 * What is given up is cut off: its machines end, and what the engine keeps of them is swept before
 * it is used again. */

#include "../machine.h"
#include "docker_tunnel.h"

#include <jansson.h>
#include <pthread.h>

struct docker_hosts;

struct docker_host {
    const struct config_docker_host *spec;
    struct docker_hosts *all;
    struct tunnel *tunnel;
    struct backend *engine; /* driver_docker's; there as long as the host is */
    pthread_t thread;
    int wake_fd; /* eventfd: look at once */

    /* the lock of all */
    bool up;
    bool doomed;       /* to be given up, for `why` */
    bool tried;        /* its first connection has come to something */
    uint64_t life;     /* counts connections */
    char why[480];     /* why it is out */
    unsigned busy;     /* machines of this life, from before they are made until they are gone */
    unsigned failures; /* of machines, in a row */
    json_t *images;    /* name -> digest; the last known */
    int64_t images_at; /* when it was asked for them; 0: never in this life */
};

struct docker_waiter {
    struct docker_waiter *next;
    int fd; /* eventfd */
};

struct docker_hosts {
    const struct config *cfg;
    char *dir; /* of the tunnels' sockets */
    int lock_fd;
    int stop_fd; /* eventfd, signalled once */
    struct docker_host *hosts;
    size_t host_ct;

    pthread_mutex_t lock;
    pthread_cond_t tried; /* a host's first connection has come to something */
    struct docker_waiter *waiters;
};

/* Before its thread: the engine and the way there, without a word to either. */
int docker_host_new(struct docker_host *h, struct error *err);
void docker_host_start(struct docker_host *h);
/* After stop_fd was signalled; also of one that was not started. */
void docker_host_stop(struct docker_host *h);
/* Gives a connection up, if it is still that one. */
void docker_host_doom(struct docker_host *h, uint64_t life, const char *why);
/* A machine there has ended before its time: is the engine still there? */
void docker_host_suspect(struct docker_host *h);
/* Asks for the images, when that is long ago and it is up. */
void docker_host_look_images(struct docker_host *h);
/* With the lock: whoever waits for room looks again. */
void docker_hosts_wake(struct docker_hosts *all);

#endif
