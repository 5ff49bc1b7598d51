#ifndef MILONGA_API_ROUTE_H
#define MILONGA_API_ROUTE_H

/* Routes: a table of methods and path patterns, matched on the path as it was sent (h2o's
 * normalized path resolves "..", and holds a raw NUL for %00). A pattern is segments; those that
 * begin with ':' are parameters, by kind:
 *
 *   :key     what a tenant shows
 *   :name    any text
 *   :image   as :name, and may hold slashes
 *   :image?  as :image, and may be empty
 *   :digits  only 0-9, else the route does not match
 *
 * A trailing slash is optional. Segments too many go to the image if there is one, else to the key
 * (where they make it unknown), as Tango's greedy patterns did. */

#include <stdbool.h>
#include <stddef.h>

enum route_method {
    ROUTE_GET = 1,
    ROUTE_POST = 2,
    ROUTE_PUT = 4,
    ROUTE_HEAD = 8,
    ROUTE_DELETE = 16,
};

/* How much body a route takes, never more than max_body_bytes of the configuration. */
enum route_body {
    ROUTE_BODY_SMALL, /* ROUTE_SMALL_BYTES */
    ROUTE_BODY_BIG,   /* as much as the configuration allows */
};
#define ROUTE_SMALL_BYTES (4u << 20)

/* Who may. The first is of Tango's dialect (a :key in the path) and of the store (store_key); the
 * others show `Authorization: Bearer`, and get problem+json when something is wrong. */
enum route_scope { ROUTE_OLD, ROUTE_OPEN, ROUTE_READ, ROUTE_WRITE, ROUTE_ADMIN };

#define ROUTE_PARAMS 3

struct call;

struct route {
    const char *name; /* for logs: paths hold keys and are never logged */
    unsigned methods;
    const char *pattern;
    enum route_body body;
    void (*handle)(struct call *c);
    enum route_scope scope;
};

struct route_param {
    const char *at; /* raw, in the path */
    size_t len;
};

struct route_match {
    const struct route *route;
    unsigned method;
    struct route_param param[ROUTE_PARAMS];
    unsigned param_ct;
    unsigned allowed; /* methods of the path; for 405 */
};

/* `path` may have a query behind '?', which is ignored. Returns 200 and *ret, or 404, or 405 (then
 * ret->route is one that has the path). */
int route_find(const struct route *routes, size_t route_ct, const char *method, size_t method_len,
               const char *path, size_t path_len, struct route_match *ret);

/* Methods as the header Allow has them, in `text`. */
#define ROUTE_METHODS_TEXT 40
const char *route_methods(unsigned methods, char text[ROUTE_METHODS_TEXT]);

/* Is it below /v1, or another version's name? Those get problem+json whatever is wrong. */
bool route_is_versioned(const char *path, size_t len, unsigned *ret_version);

/* Percent-decodes once; '+' is a plus sign. Writes at most p.len bytes and a NUL, and returns the
 * length; -1 when a '%' has no two hex digits behind it or the result is not UTF-8. */
long route_decode(struct route_param p, char *out);

#endif
