#ifndef MILONGA_API_CORE_HUB_H
#define MILONGA_API_CORE_HUB_H

/* Redis's channels for whoever listens on this loop: one subscribing connection, each channel
 * subscribed once however many listen. A message may be missed while the connection is away;
 * whenever it is sure that nothing is missed from now on, look() is called. Who listens reads the
 * state after hub_listen(), and again at each look(). */

#include "services/api/core.h"

#include <sys/queue.h>

struct hub;
struct hub_topic;

struct hub_listener {
    void (*message)(void *arg, const char *data, size_t len);
    void (*look)(void *arg);
    void *arg;
    TAILQ_ENTRY(hub_listener) link; /* the hub's own from here on */
    struct hub_topic *topic;
};

struct hub *hub_new(const struct core_env *env);
/* `channel` without the prefix. The listener is the caller's and stays where it is until
 * hub_unlisten(), which may be called from within its own callbacks. */
void hub_listen(struct hub *h, struct hub_listener *l, const char *channel);
void hub_unlisten(struct hub *h, struct hub_listener *l);

#endif
