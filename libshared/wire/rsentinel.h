#ifndef MILONGA_RSENTINEL_H
#define MILONGA_RSENTINEL_H

/* Asks Redis Sentinels where the master is. All of them at once, and what counts is the answer of
 * more than half of those that the URL names: a Sentinel that was cut off goes on naming a master
 * that the others have replaced, and must not lead anybody back to it.
 *
 * On an rconn's loop and thread, with connections that end with the answer. */

#include "wire/rconn.h"
#include "wire/rurl.h"

struct rsentinel;

/* Host (NULL when no master was found, and then `why` says for people why not) and port; the
 * strings are valid during the call. Never from inside rsentinel_ask(). */
typedef void rsentinel_fn(const char *host, int port, const char *why, void *arg);

/* Borrows the URL, ops and loop for as long as it lives. */
struct rsentinel *rsentinel_new(const struct rurl *url, unsigned timeout_ms,
                                const struct rloop_ops *ops, void *loop, rsentinel_fn *told,
                                void *arg);
/* Nobody is told any more. NULL is fine. Not from inside `told`. */
void rsentinel_free(struct rsentinel *s);

/* One question at a time: while one is under way this does nothing. */
void rsentinel_ask(struct rsentinel *s);

/* What more than half of `ct` answers say, as an index of one that says it, or -1. An answer with
 * host NULL is none. */
struct rsentinel_answer {
    char *host;
    int port;
};
int rsentinel_majority(const struct rsentinel_answer *answers, size_t ct);

#endif
