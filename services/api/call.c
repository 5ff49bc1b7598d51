#include "services/api/call.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/api/conn.h"
#include "services/api/problem.h"
#include "services/api/reply.h"
#include "services/api/sse.h"

#include <string.h>
#include <strings.h>

#define SLOW_MS 1000

static const char bearer[] = "Bearer ";
#define BEARER_LEN (sizeof(bearer) - 1)

const struct config_key_entry *call_key(const struct config *cfg, const char *key, size_t len)
{
    const struct config_key_entry *found = NULL;

    for (size_t i = 0; i < cfg->key_ct; i++) {
        const struct config_key_entry *k = &cfg->key_list[i];

        if (key_equal(key, len, k->key, strlen(k->key)))
            found = k;
    }
    return found;
}

const struct config_key_entry *call_bearer(const struct config *cfg, const char *authorization,
                                           size_t len)
{
    if (!authorization || len < BEARER_LEN || strncasecmp(authorization, bearer, BEARER_LEN) != 0)
        return NULL;
    return call_key(cfg, authorization + BEARER_LEN, len - BEARER_LEN);
}

bool call_tango_may(const struct config_key_entry *k)
{
    return k && k->scope >= SCOPE_WRITE;
}

bool call_store_allowed(const struct config *cfg, const char *authorization, size_t len)
{
    if (!cfg->store_key || !*cfg->store_key || !authorization || len < BEARER_LEN ||
        strncasecmp(authorization, bearer, BEARER_LEN) != 0)
        return false;
    return key_equal(authorization + BEARER_LEN, len - BEARER_LEN, cfg->store_key,
                     strlen(cfg->store_key));
}

const char *call_query(const struct call *c, const char *name)
{
    const char *path = c->req->input.path.base, *end = path + c->req->input.path.len;
    const char *at = memchr(path, '?', c->req->input.path.len);
    size_t name_len = strlen(name);

    while (at && at < end) {
        const char *item = at + 1;
        const char *next = memchr(item, '&', (size_t)(end - item));
        size_t len = (size_t)((next ? next : end) - item);

        if (len > name_len && item[name_len] == '=' && memcmp(item, name, name_len) == 0) {
            struct route_param value = {item + name_len + 1, len - name_len - 1};
            char *out = h2o_mem_alloc_pool(&c->req->pool, value.len + 1);
            long n = route_decode(value, out);

            return n >= 0 && strlen(out) == (size_t)n ? out : NULL;
        }
        at = next;
    }
    return NULL;
}

void call_add_header(struct call *c, const char *name, const char *value)
{
    h2o_mem_pool_t *pool;

    if (!c->req)
        return;
    pool = &c->req->pool;
    h2o_add_header_by_str(pool, &c->req->res.headers, h2o_strdup(pool, name, SIZE_MAX).base,
                          strlen(name), 0, NULL, h2o_strdup(pool, value, SIZE_MAX).base,
                          strlen(value));
}

const char *call_header(const struct call *c, const char *name, size_t *ret_len)
{
    ssize_t i = c->req ? h2o_find_header_by_str(&c->req->headers, name, strlen(name), -1) : -1;

    if (i < 0)
        return NULL;
    *ret_len = c->req->headers.entries[i].value.len;
    return c->req->headers.entries[i].value.base;
}

static void call_gone(void *p)
{
    struct call *c = *(struct call **)p;

    if (c)
        c->req = NULL;
}

static struct call *call_new(struct loop *l, h2o_req_t *req)
{
    struct call *c = xcalloc(1, sizeof(*c));

    c->req = req;
    c->loop = l;
    c->begun_ms = clock_mono_ms();
    c->anchor = h2o_mem_alloc_shared(&req->pool, sizeof(c), call_gone);
    *c->anchor = c;
    return c;
}

void call_end(struct call *c, int status, size_t bytes)
{
    int64_t ms = clock_mono_ms() - c->begun_ms;
    bool notable = status >= 400 || status == 0 || ms > SLOW_MS;
    enum log_level level = notable ? LOG_INFO_ : LOG_DEBUG_;

    if (level >= log_level_now())
        log_event(level, "http.request", "route", c->route ? c->route->name : "none", "status",
                  LOG_NUM(status), "ms", LOG_NUM(ms), "bytes", LOG_NUM(bytes), NULL);
    if (c->state && c->free_state)
        c->free_state(c->state);
    if (c->anchor && c->req)
        *c->anchor = NULL;
    if (c->holds_place)
        sse_leave(c);
    for (unsigned i = 0; i < ROUTE_PARAMS; i++)
        free(c->param[i]);
    free(c);
}

/* The parameters, decoded; 400 when one is not UTF-8. */
static int decode_params(struct call *c, const struct route_match *m)
{
    for (unsigned i = 0; i < m->param_ct; i++) {
        long len;

        c->param[i] = xmalloc(m->param[i].len + 1);
        len = route_decode(m->param[i], c->param[i]);
        if (len < 0)
            return 400;
        c->param_len[i] = (size_t)len;
    }
    return 200;
}

static void refuse_unrouted(struct call *c, int status, unsigned allowed)
{
    const char *path = c->req->input.path.base;
    char methods[ROUTE_METHODS_TEXT];
    unsigned version = 1;

    if (route_is_versioned(path, c->req->input.path.len, &version) ||
        (c->route && c->route->scope != ROUTE_OLD)) {
        problem_unrouted(c, status, version, allowed);
    } else {
        if (status == 405)
            call_add_header(c, "allow", route_methods(allowed, methods));
        reply_html(c, status);
    }
}

/* Answers and returns false when the key that was shown may not do this. */
static bool may(struct call *c)
{
    const struct config *cfg = c->loop->server->cfg;
    size_t len = 0;
    const char *text;
    const struct config_key_entry *k;

    if (c->route->scope == ROUTE_OPEN)
        return true;
    if (c->route->scope == ROUTE_OLD) {
        if (!strstr(c->route->pattern, ":key"))
            return true;
        k = call_key(cfg, c->param[0], c->param_len[0]);
        if (!call_tango_may(k)) {
            reply_status(c, -1, "Key not recognized");
            return false;
        }
    } else {
        text = call_header(c, "authorization", &len);
        k = call_bearer(cfg, text, len);
        if (!problem_allowed(c, k))
            return false;
    }
    c->tenant = k->tenant;
    c->scope = k->scope;
    return true;
}

int call_begin(struct loop *l, h2o_req_t *req)
{
    struct call *c = call_new(l, req);
    struct route_match m;
    int status;

    conn_serve(req);
    status = route_find(l->server->routes, l->server->route_ct, req->input.method.base,
                        req->input.method.len, req->input.path.base, req->input.path.len, &m);
    c->route = m.route;
    c->method = m.method;
    if (status == 200)
        status = decode_params(c, &m);
    if (status != 200)
        refuse_unrouted(c, status, m.allowed);
    else if (may(c))
        m.route->handle(c);
    return 0;
}
