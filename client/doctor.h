#ifndef MILONGA_CLIENT_DOCTOR_H
#define MILONGA_CLIENT_DOCTOR_H

/* doctor: looks at an installation from the host it is called on. Each check has a stable name
 * ("redis.evicts"), and each fault what is wrong, with the value, and the remedy. A fault stops
 * jobs or loses them; a warning does not yet. */

#include "client/client.h"

#include <stdbool.h>

struct redisContext;

struct doctor {
    struct client *client;
    const struct config *cfg;
    json_t *findings; /* array of {check, level, what, remedy} */
    unsigned faults, warnings, passed;
};

void doctor_ok(struct doctor *d, const char *check, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void doctor_warning(struct doctor *d, const char *check, const char *remedy, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void doctor_fault(struct doctor *d, const char *check, const char *remedy, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The checks, by subject; each says at least one thing. */
void doctor_config(struct doctor *d);
void doctor_disk(struct doctor *d);
void doctor_redis(struct doctor *d); /* the server, then what the services keep in it */
void doctor_api(struct doctor *d);
void doctor_driver(struct doctor *d);

/* Of what the services keep in Redis; doctor_redis.c lends its connection. */
void doctor_state(struct doctor *d, struct redisContext *redis);

#endif
