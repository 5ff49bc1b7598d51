#include "services/api/reply.h"

#include "base/crashpoint.h"
#include "base/digest.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define JSON_TYPE "application/json; charset=UTF-8"
#define HTML_TYPE "text/html; charset=UTF-8"

/* ---- Answers ---- */

const char *reply_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{200, "OK"},
                   {201, "Created"},
                   {202, "Accepted"},
                   {204, "No Content"},
                   {206, "Partial Content"},
                   {304, "Not Modified"},
                   {400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {409, "Conflict"},
                   {413, "Request Entity Too Large"},
                   {416, "Range Not Satisfiable"},
                   {422, "Unprocessable Entity"},
                   {429, "Too Many Requests"},
                   {503, "Service Unavailable"},
                   {507, "Insufficient Storage"}};

    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        if (reasons[i].status == status)
            return reasons[i].reason;
    }
    return "Internal Server Error";
}

char *reply_page(int status)
{
    const char *reason = reply_reason(status);

    return xasprintf("<html><title>%d: %s</title><body>%d: %s</body></html>", status, reason,
                     status, reason);
}

static void add_header(h2o_req_t *req, const char *name, const char *orig, const char *value)
{
    size_t len = strlen(name);

    h2o_add_header_by_str(&req->pool, &req->res.headers, name, len, 0, orig, value, strlen(value));
}

static char *pool_text(h2o_req_t *req, const char *s)
{
    return h2o_strdup(&req->pool, s, SIZE_MAX).base;
}

/* Is `etag` (quoted) in the client's list? */
static bool etag_matches(const struct call *c, const char *etag)
{
    size_t len;
    const char *list = call_header(c, "if-none-match", &len);

    return list && (memmem(list, len, etag, strlen(etag)) || (len == 1 && *list == '*'));
}

/* The head of an answer; false when it was a 304 and is over. */
static bool begin(struct call *c, int status, const char *type, const char *etag, size_t len)
{
    h2o_req_t *req = c->req;
    bool same = etag && *etag && (status == 200 || status == 206) && etag_matches(c, etag);

    req->res.status = same ? 304 : status;
    req->res.reason = reply_reason(req->res.status);
    req->res.content_length = len; /* without it h2o ends the connection or sends chunks */
    if (atomic_load_explicit(&c->loop->server->draining, memory_order_relaxed))
        req->http1_is_persistent = 0;
    if (!same && type)
        add_header(req, "content-type", "Content-Type", type);
    if (etag && *etag)
        add_header(req, "etag", "Etag", pool_text(req, etag));
    return !same;
}

static void send_whole(struct call *c, const void *data, size_t len)
{
    static h2o_generator_t none = {NULL, NULL};
    h2o_req_t *req = c->req;
    h2o_iovec_t body = {h2o_mem_alloc_pool(&req->pool, len ? len : 1), len};
    int status = req->res.status;

    if (len)
        memcpy(body.base, data, len);
    c->req = NULL; /* h2o_send() may end it */
    *c->anchor = NULL;
    CRASHPOINT("api", "answer", "before");
    h2o_start_response(req, &none);
    h2o_send(req, &body, len ? 1 : 0, H2O_SEND_STATE_FINAL);
    call_end(c, status, len);
}

void reply_bytes(struct call *c, int status, const char *type, const char *etag, const void *data,
                 size_t len)
{
    char sha[SHA1_HEX + 3];

    if (!c->req) {
        call_end(c, 0, 0);
        return;
    }
    if (!etag && status == 200 && c->method == ROUTE_GET) {
        sha[0] = '"';
        digest_hex(DIGEST_SHA1, data, len, sha + 1);
        strcpy(sha + 1 + SHA1_HEX, "\"");
        etag = sha;
    }
    if (!begin(c, status, type, etag, len) ||
        h2o_memis(c->req->method.base, c->req->method.len, H2O_STRLIT("HEAD")))
        len = 0; /* but Content-Length is told */
    send_whole(c, data, len);
}

void reply_json(struct call *c, const struct buf *b)
{
    reply_bytes(c, 200, JSON_TYPE, NULL, b->data, b->len);
}

void reply_status(struct call *c, int status_id, const char *text)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    out_status(&b, status_id, text);
    buf_append(&b, "}", 1);
    reply_json(c, &b);
    buf_free(&b);
}

void reply_html(struct call *c, int status)
{
    char *page = reply_page(status);

    reply_bytes(c, status, HTML_TYPE, NULL, page, strlen(page));
    free(page);
}

/* ---- Answers in pieces ---- */

static void stream_proceed(h2o_generator_t *g, h2o_req_t *req)
{
    struct reply_stream *s = (struct reply_stream *)g;

    (void)req;
    s->next(s);
}

/* The request's pool goes with the request, however it ends. */
static void stream_gone(void *p)
{
    struct reply_stream *s = *(struct reply_stream **)p;

    s->req = NULL;
    s->stop(s);
}

int reply_stream_begin(struct call *c, struct reply_stream *s, int status, const char *type,
                       const char *etag, size_t len)
{
    h2o_req_t *req = c->req;
    struct reply_stream **anchor;

    if (!req || !begin(c, status, type, etag, len)) {
        if (req)
            send_whole(c, "", 0);
        else
            call_end(c, 0, 0);
        s->stop(s);
        return 0;
    }
    anchor = h2o_mem_alloc_shared(&req->pool, sizeof(s), stream_gone);
    *anchor = s;
    s->generator = (h2o_generator_t){stream_proceed, NULL};
    s->req = req;
    c->req = NULL;
    *c->anchor = NULL;
    call_end(c, status, len);
    h2o_start_response(req, &s->generator);
    s->next(s);
    return 1;
}

void reply_stream_send(struct reply_stream *s, const void *data, size_t len, bool last)
{
    h2o_iovec_t piece = {(char *)data, len};

    if (s->req)
        h2o_send(s->req, &piece, len ? 1 : 0,
                 last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

void reply_stream_fail(struct reply_stream *s)
{
    if (s->req)
        h2o_send(s->req, NULL, 0, H2O_SEND_STATE_ERROR);
}
