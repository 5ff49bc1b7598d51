#include "services/api/call.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/api/conn.h"
#include "services/api/reply.h"

#include <string.h>
#include <strings.h>

#define SLOW_MS 1000

const char *call_tenant(const struct config *cfg, const char *key, size_t len)
{
    const char *tenant = NULL;

    for (size_t i = 0; i < cfg->key_ct; i++) {
        const struct config_key_entry *k = &cfg->key_list[i];

        if (key_equal(key, len, k->key, strlen(k->key)))
            tenant = k->tenant;
    }
    return tenant;
}

bool call_store_allowed(const struct config *cfg, const char *authorization, size_t len)
{
    static const char bearer[] = "Bearer ";
    size_t skip = sizeof(bearer) - 1;

    if (!cfg->store_key || !*cfg->store_key || !authorization || len < skip ||
        strncasecmp(authorization, bearer, skip) != 0)
        return false;
    return key_equal(authorization + skip, len - skip, cfg->store_key, strlen(cfg->store_key));
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
    free(c);
}

/* The parameters, decoded; 400 when one is not UTF-8. */
static int decode_params(struct call *c, const struct route_match *m)
{
    for (unsigned i = 0; i < m->param_ct; i++) {
        long len;

        c->param[i] = h2o_mem_alloc_pool(&c->req->pool, m->param[i].len + 1);
        len = route_decode(m->param[i], c->param[i]);
        if (len < 0)
            return 400;
        c->param_len[i] = (size_t)len;
    }
    return 200;
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
    if (status != 200) {
        reply_html(c, status);
        return 0;
    }
    if (strstr(m.route->pattern, ":key")) {
        c->tenant = call_tenant(l->server->cfg, c->param[0], c->param_len[0]);
        if (!c->tenant) {
            reply_status(c, -1, "Key not recognized");
            return 0;
        }
    }
    m.route->handle(c);
    return 0;
}
