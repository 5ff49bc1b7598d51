#ifndef MILONGA_API_CALL_H
#define MILONGA_API_CALL_H

/* One request while it is being answered. A handler is called with one and answers it once, by one
 * of reply.h, then or later on the same loop; that frees it. Should the request be gone by then
 * (`req` is NULL), the answer is dropped. */

#include "services/api/route.h"
#include "services/api/server.h"

struct call {
    h2o_req_t *req; /* NULL once it is gone */
    void **anchor;  /* in the request's pool, points back here */
    struct loop *loop;
    const struct route *route; /* NULL: none matched */
    unsigned method;
    const char *tenant;        /* of the key that was shown; NULL where a route needs none */
    enum config_scope scope;   /* of that key */
    char *param[ROUTE_PARAMS]; /* decoded; they live as long as the call, not the request */
    size_t param_len[ROUTE_PARAMS];
    int64_t begun_ms;
    bool holds_place; /* of a stream that is yet to begin: sse_room() */

    void *state; /* the handler's own; freed with free_state, when that is set */
    void (*free_state)(void *state);
};

/* h2o's handler: finds the route, decodes, and calls its handler. */
int call_begin(struct loop *l, h2o_req_t *req);

/* Is it a key of the configuration, or NULL. Compares with all of them, each in constant time. */
const struct config_key_entry *call_key(const struct config *cfg, const char *key, size_t len);
/* The same for "Bearer <key>" in a header `authorization`, which may be NULL. */
const struct config_key_entry *call_bearer(const struct config *cfg, const char *authorization,
                                           size_t len);
/* A key that Tango's routes take: they all may change something. */
bool call_tango_may(const struct config_key_entry *k);

/* "Authorization: Bearer <store_key>". */
bool call_store_allowed(const struct config *cfg, const char *authorization, size_t len);

/* A header's value, or NULL. `name` in lower case. */
const char *call_header(const struct call *c, const char *name, size_t *ret_len);

/* Value of a parameter of the query, decoded, in the request's pool; NULL when it is not there or
 * is no UTF-8. */
const char *call_query(const struct call *c, const char *name);

/* One more header of the answer; `name` in lower case. Copies. */
void call_add_header(struct call *c, const char *name, const char *value);

/* Only for reply.h: the answer was given. */
void call_end(struct call *c, int status, size_t bytes);

#endif
