#ifndef MILONGA_VMM_ASSIGNMENT_H
#define MILONGA_VMM_ASSIGNMENT_H

/* The message by which the dispatcher's assign script hands a job over: msgpack [id, token, n, c,
 * body, epoch] (docs/protocol.md). Numbers may come as strings, as they lie in Redis. */

#include "base/err.h"
#include "wire/job.h"

#include <stddef.h>

struct assignment {
    char id[24]; /* decimal */
    char token[JOB_TOKEN_TEXT];
    unsigned tries, charged;
    const char *body; /* points into the message */
    size_t body_len;
    char epoch[24]; /* of the vmm that it is for; "" from a dispatcher that does not say */
};

/* ERR_PERMANENT/EPROTO for anything else than such a message; further elements are a newer
 * dispatcher's. */
int assignment_decode(const void *data, size_t len, struct assignment *ret, struct error *err);

#endif
