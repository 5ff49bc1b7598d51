/* The head of a request, its route and its parameters, as they are judged before h2o parses them.
 */

#include "services/api/head.c"
#include "services/api/route.c"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct route routes[] = {
    {"root", ROUTE_GET, "/", ROUTE_BODY_SMALL, NULL},
    {"open", ROUTE_GET, "/open/:key/:name", ROUTE_BODY_SMALL, NULL},
    {"poll", ROUTE_GET, "/poll/:key/:name/:name", ROUTE_BODY_SMALL, NULL},
    {"pool", ROUTE_GET, "/pool/:key/:image?", ROUTE_BODY_SMALL, NULL},
    {"pools", ROUTE_GET, "/pool/:key", ROUTE_BODY_SMALL, NULL},
    {"prealloc", ROUTE_POST, "/prealloc/:key/:image/:digits", ROUTE_BODY_SMALL, NULL},
};

static void inside(const char *at, size_t len, const char *data, size_t size)
{
    if (at < data || len > size || (size_t)(at - data) > size - len)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct head h;
    struct route_match m;

    if (head_scan(text, size, &h) == 1) {
        inside(h.method.at, h.method.len, text, size);
        inside(h.path.at, h.path.len, text, size);
        if (h.authorization.at)
            inside(h.authorization.at, h.authorization.len, text, size);
        if (h.len > size)
            abort();
    } else {
        h.method = (struct head_text){"GET", 3};
        h.path = (struct head_text){text, size};
    }
    if (route_find(routes, sizeof(routes) / sizeof(routes[0]), h.method.at, h.method.len, h.path.at,
                   h.path.len, &m) != 200)
        return 0;
    for (unsigned i = 0; i < m.param_ct; i++) {
        char *out = malloc(m.param[i].len + 1);

        inside(m.param[i].at, m.param[i].len, h.path.at, h.path.len);
        if (route_decode(m.param[i], out) > (long)m.param[i].len)
            abort();
        free(out);
    }
    return 0;
}
