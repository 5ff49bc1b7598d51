#ifndef MILONGA_RESOLVE_H
#define MILONGA_RESOLVE_H

/* Looks up a host's addresses on a thread of its own, for event loops: getaddrinfo(3) may block for
 * as long as the name servers like. The owner polls from a timer. */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#define RESOLVE_ADDRS_MAX 8

struct resolve;

struct resolve_addrs {
    size_t ct;
    char text[RESOLVE_ADDRS_MAX][INET6_ADDRSTRLEN];
};

/* True when the host is an address already and needs no looking up. */
bool resolve_numeric(const char *host);

/* NULL when no thread could be had. */
struct resolve *resolve_start(const char *host);

/* 0 with *ret filled (one address at least), -EAGAIN while it goes on, -ENOENT when it failed. */
int resolve_poll(struct resolve *r, struct resolve_addrs *ret);
/* Why, after -ENOENT. */
const char *resolve_error(const struct resolve *r);

/* NULL is fine. While the look-up goes on, its thread ends by itself later. */
void resolve_free(struct resolve *r);

#endif
