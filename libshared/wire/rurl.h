#ifndef MILONGA_RURL_H
#define MILONGA_RURL_H

/* Where Redis is: unix://[user:pass@]/path[?db=N], redis://[user:pass@]host[:port][/db], or who
 * knows: redis+sentinel://[user:pass@]host[:port],host[:port],.../NAME[/db][?sentinel_user=...]
 * [&sentinel_password=...], where NAME is the master's and user and password are Redis's own. They
 * may be %-encoded; an IPv6 address stands in brackets. */

#include "base/err.h"

#include <stddef.h>

#define RURL_SENTINELS_MAX 15

struct rurl_host {
    char *host; /* name or address */
    int port;
};

struct rurl {
    char *path; /* of a unix socket, else NULL */
    char *host; /* name or address, else NULL: with Sentinels until they have told */
    int port;
    char *user;     /* NULL when there is none */
    char *password; /* NULL: no AUTH */
    int db;

    struct rurl_host sentinels[RURL_SENTINELS_MAX];
    size_t sentinel_ct;                      /* 0: there are none */
    char *master;                            /* its name among them, else NULL */
    char *sentinel_user, *sentinel_password; /* NULL: no AUTH there */
};

/* On success *ret is the caller's to rurl_done(). Errors (ERR_PERMANENT, EINVAL) never quote the
 * URL: it holds a password. */
int rurl_parse(const char *url, struct rurl *ret, struct error *err);
void rurl_done(struct rurl *u);

#endif
