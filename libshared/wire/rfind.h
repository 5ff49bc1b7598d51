#ifndef MILONGA_RFIND_H
#define MILONGA_RFIND_H

/* Finds the address to connect to, for an rconn: that of the URL, what its host's name stands for
 * (a name may have several addresses, of which one serves), or the master that the Sentinels name.
 * On the rconn's loop and thread. */

#include "wire/rconn.h"
#include "wire/rurl.h"

struct rfind;

struct rfind_owner {
    /* The outcome of rfind_next(), maybe from inside it: an address, or NULL and why not. */
    void (*found)(const char *address, int port, const char *why, void *arg);
    /* The Sentinels name another master than the one that was found last. */
    void (*moved)(void *arg);
    void *arg;
};

/* Borrows the URL, which is not of a unix socket, ops and loop for as long as it lives. */
struct rfind *rfind_new(const struct rurl *url, unsigned timeout_ms, const struct rloop_ops *ops,
                        void *loop, const struct rfind_owner *owner);
/* Nobody is told any more. NULL is fine. Not from inside the owner's functions. */
void rfind_free(struct rfind *f);

/* The next address to be tried; each of a name's in turn, then a new look-up. */
void rfind_next(struct rfind *f);
/* Ends what rfind_next() began, untold. */
void rfind_stop(struct rfind *f);
/* What was found serves: the next search begins with a new look-up. */
void rfind_served(struct rfind *f);

/* Are there Sentinels, so that what they name has to be looked at again? */
bool rfind_can_move(const struct rfind *f);
/* Looks; `moved` is told if so. */
void rfind_look(struct rfind *f);

#endif
