#ifndef MILONGA_API_STORE_ROUTE_H
#define MILONGA_API_STORE_ROUTE_H

/* The store over HTTP, for vmms on other hosts: GET, HEAD and PUT /store/<sha256>, with the secret
 * that our own services share. Without that secret in the configuration there is no such route. */

#include "services/api/call.h"

extern const struct route store_routes[];
extern const size_t store_route_ct;

#endif
