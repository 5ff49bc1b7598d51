#ifndef MILONGA_API_LISTEN_H
#define MILONGA_API_LISTEN_H

/* The socket on which the api is called: one that was handed to us (systemd's socket activation, so
 * that callers wait during a restart instead of being refused), or our own. */

#include "base/config.h"
#include "base/err.h"

/* A listening stream socket, close-on-exec and non-blocking, the caller's to close; a negative
 * errno with a sentence when there is none. Takes LISTEN_FDS and LISTEN_PID out of the environment,
 * so only once and before any thread. */
int listen_open(const struct config *cfg, struct error *err);

#endif
