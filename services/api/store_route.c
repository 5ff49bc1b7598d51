#include "services/api/store_route.h"

#include "base/mem.h"
#include "services/api/reply.h"
#include "services/api/send.h"

#include <string.h>

static bool is_sha256(const char *s, size_t len)
{
    return len == SHA256_HEX && strspn(s, "0123456789abcdef") == SHA256_HEX;
}

/* Answers and returns false when the sender is not one of ours. */
static bool allowed(struct call *c)
{
    const struct config *cfg = c->loop->server->cfg;
    size_t len = 0;
    const char *text = call_header(c, "authorization", &len);

    if (!cfg->store_key || !*cfg->store_key)
        reply_html(c, 404);
    else if (!call_store_allowed(cfg, text, len))
        reply_html(c, 401);
    else if (!is_sha256(c->param[0], c->param_len[0]))
        reply_html(c, 404);
    else
        return true;
    return false;
}

static void get_failed(struct call *c, const struct core_answer *a)
{
    reply_html(c, a->status == CORE_NOT_FOUND ? 404 : 503);
}

static void stored(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status != CORE_OK)
        reply_html(c, 503);
    else if (strcmp(a->files[0].sha256, c->param[0]) != 0)
        reply_html(c, 422); /* what came is another file; it is nobody's and is collected */
    else
        reply_bytes(c, 201, "text/plain; charset=utf-8", NULL, "", 0);
}

static void handle(struct call *c)
{
    if (!allowed(c))
        return;
    if (c->method == ROUTE_PUT)
        core_store(c->loop->core, c->req->entity.base, c->req->entity.len, stored, c);
    else
        send_stored(c, c->param[0], get_failed);
}

const struct route store_routes[] = {
    {"store", ROUTE_GET | ROUTE_HEAD | ROUTE_PUT, "/store/:name", ROUTE_BODY_BIG, handle},
};
const size_t store_route_ct = ARRAY_SIZE(store_routes);
