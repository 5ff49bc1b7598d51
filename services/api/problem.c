#include "services/api/problem.h"

#include "base/mem.h"
#include "services/api/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DETAIL_MAX    600
#define UNAVAILABLE_S "2"

/* The codes that a status has by itself. */
static const struct {
    int status;
    const char *code, *sentence;
} bare[] = {
    {400, "bad-request", "The request is malformed"},
    {401, "unauthorized", "Show a key that is known here: Authorization: Bearer KEY"},
    {403, "forbidden", "The scope of this key does not allow it"},
    {404, "no-such-route", "There is nothing under this path"},
    {405, "method-not-allowed", "This path has other methods, see Allow"},
    {408, "request-timeout", "The request came too slowly"},
    {413, "too-large", "The body is larger than this path takes, see max_body_bytes"},
    {503, "unavailable", "The server has too much to do; try again"},
    {507, "no-space", "The server's disk for bodies under way is full; try again later"},
};

const char *problem_code(int status)
{
    for (size_t i = 0; i < ARRAY_SIZE(bare); i++)
        if (bare[i].status == status)
            return bare[i].code;
    return "internal";
}

const char *problem_sentence(int status)
{
    for (size_t i = 0; i < ARRAY_SIZE(bare); i++)
        if (bare[i].status == status)
            return bare[i].sentence;
    return "Something went wrong here";
}

char *problem_text(int status, const char *code, const char *detail, const char *errors)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    buf_printf(&b, "{\"type\": \"urn:milonga:%s\", \"title\": ", code);
    out_cstr(&b, reply_reason(status));
    buf_printf(&b, ", \"status\": %d, \"detail\": ", status);
    out_cstr(&b, detail);
    buf_printf(&b, ", \"code\": \"%s\"", code);
    if (errors)
        buf_printf(&b, ", \"errors\": [%s]", errors);
    buf_appends(&b, "}");
    return buf_detach(&b);
}

static void reply(struct call *c, int status, const char *code, const char *detail,
                  const char *errors)
{
    char *text = problem_text(status, code, detail, errors);

    if (status == 401)
        call_add_header(c, "www-authenticate", "Bearer realm=\"milonga\"");
    if (status == 503)
        call_add_header(c, "retry-after", UNAVAILABLE_S);
    reply_bytes(c, status, PROBLEM_TYPE, NULL, text, strlen(text));
    free(text);
}

void problem(struct call *c, int status, const char *code, const char *fmt, ...)
{
    char detail[DETAIL_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    reply(c, status, code, detail, NULL);
}

void problem_later(struct call *c, uint64_t wait_s, const char *code, const char *fmt, ...)
{
    char detail[DETAIL_MAX], wait[24];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    snprintf(wait, sizeof(wait), "%" PRIu64, wait_s > 0 ? wait_s : 1);
    call_add_header(c, "retry-after", wait);
    reply(c, 429, code, detail, NULL);
}

char *problem_unrouted_text(int status, unsigned version)
{
    char detail[120];

    if (status != 404 || version == 1)
        return problem_text(status, problem_code(status), problem_sentence(status), NULL);
    snprintf(detail, sizeof(detail), "There is no version v%u of this API; this server speaks v1",
             version);
    return problem_text(404, "no-such-version", detail, NULL);
}

void problem_unrouted(struct call *c, int status, unsigned version, unsigned allowed)
{
    char *text = problem_unrouted_text(status, version), methods[ROUTE_METHODS_TEXT];

    if (status == 405)
        call_add_header(c, "allow", route_methods(allowed, methods));
    reply_bytes(c, status, PROBLEM_TYPE, NULL, text, strlen(text));
    free(text);
}

bool problem_allowed(struct call *c, const struct config_key_entry *k)
{
    static const char *const scopes[] = {"read", "write", "admin"};
    int want = (int)c->route->scope - (int)ROUTE_READ;

    if (!k) {
        reply(c, 401, "unauthorized", problem_sentence(401), NULL);
        return false;
    }
    if ((int)k->scope - (int)SCOPE_READ < want) {
        problem(c, 403, "forbidden", "This needs a key of scope %s; the scope of this one is %s",
                scopes[want], scopes[k->scope - SCOPE_READ]);
        return false;
    }
    return true;
}

void problem_core(struct call *c, const struct core_answer *a, const char *what)
{
    if (a->status == CORE_NOT_FOUND || a->status == CORE_NO_LAB)
        problem(c, 404, "not-found", "There is no %s", what);
    else
        problem(c, 503, "unavailable", "%s", *a->why ? a->why : problem_sentence(503));
}

/* ---- Field by field ---- */

void problems_add(struct problems *p, const char *pointer, const char *fmt, ...)
{
    char detail[DETAIL_MAX];
    va_list ap;

    if (p->ct++ >= PROBLEMS_MAX)
        return;
    if (p->ct == 1)
        buf_init(&p->list, SIZE_MAX);
    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    buf_appends(&p->list, p->ct > 1 ? ", {\"pointer\": " : "{\"pointer\": ");
    out_cstr(&p->list, pointer);
    buf_appends(&p->list, ", \"detail\": ");
    out_cstr(&p->list, detail);
    buf_appends(&p->list, "}");
}

bool problems_reply(struct problems *p, struct call *c)
{
    char detail[120];
    struct buf list = p->list; /* `p` may go with the call */

    if (p->ct == 0)
        return false;
    p->list = (struct buf){0};
    snprintf(detail, sizeof(detail), "The request has %u problem%s, see errors", p->ct,
             p->ct > 1 ? "s" : "");
    p->ct = 0;
    reply(c, 422, "invalid", detail, list.data);
    buf_free(&list);
    return true;
}
