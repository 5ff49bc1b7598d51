#ifndef MILONGA_RURL_H
#define MILONGA_RURL_H

/* Where Redis is: unix://[user:pass@]/path[?db=N] or redis://[user:pass@]host[:port][/db]. User and
 * password may be %-encoded; an IPv6 address stands in brackets. */

#include "base/err.h"

struct rurl {
    char *path; /* of a unix socket, else NULL */
    char *host; /* name or address, else NULL */
    int port;
    char *user;     /* NULL when there is none */
    char *password; /* NULL: no AUTH */
    int db;
};

/* On success *ret is the caller's to rurl_done(). Errors (ERR_PERMANENT, EINVAL) never quote the
 * URL: it holds a password. */
int rurl_parse(const char *url, struct rurl *ret, struct error *err);
void rurl_done(struct rurl *u);

#endif
