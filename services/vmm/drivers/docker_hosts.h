#ifndef MILONGA_DOCKER_HOSTS_H
#define MILONGA_DOCKER_HOSTS_H

/* Between docker_hosts.c (the driver: machines on engines elsewhere) and docker_host.c (an engine's
 * way there). Each engine is a backend of driver_docker behind a tunnel; machines of it are
 * driver_docker's, wrapped. Which one gets a machine, and whether it is used, is hosts.h's.
 *
 * What is given up is cut off: its machines end, and what the engine keeps of them is swept before
 * it is used again. */

#include "docker_tunnel.h"
#include "services/vmm/drivers/hosts.h"

struct docker_host {
    struct host at;
    const struct config_docker_host *spec;
    struct tunnel *tunnel;
    struct backend *engine; /* driver_docker's; there as long as the host is */
    char identity[512];     /* of the engine, while it is connected; "": not known. The lock */
};

static inline struct docker_host *docker_host(struct host *h)
{
    return (struct docker_host *)(void *)h;
}

/* Before its thread: the engine and the way there, without a word to either. `dir`: for sockets. */
int docker_host_new(struct docker_host *h, const struct config *cfg, const char *dir,
                    struct error *err);
/* After its thread has ended, also of one that was never made. */
void docker_host_done(struct docker_host *h);
/* Of struct host_kind. */
int docker_host_connect(struct host *h, struct error *err);
bool docker_host_serve(struct host *h);
void docker_host_disconnect(struct host *h, bool kindly, const struct error *why);
int docker_host_prove(struct host *h, struct error *err);
int docker_host_images(struct host *h, struct host_images *ret, struct error *err);

#endif
