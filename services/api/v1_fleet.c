/* vmms and their machines. */

#include "services/api/v1.h"

#include "base/image_name.h"
#include "base/mem.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define REASON_MAX 200

/* A vmm's row, as lua/vmms.lua has it. */
enum {
    V_NAME,
    V_STATE,
    V_DRAIN,
    V_WHY,
    V_DRIVER,
    V_SLOTS,
    V_LABELS,
    V_VERSION,
    V_GONE,
    V_RUNNING,
    V_IMAGES,
    V_POOLS,
    V_MINE,
    V_OTHERS,
    V_THEIR_POOLS,
    V_HOSTS
};

static void failed(struct call *c, const struct core_answer *a)
{
    problem_core(c, a, v1_what("vmm", c->param[0] ? c->param[0] : ""));
}

static size_t count_ids(const char *text, char end)
{
    size_t n = 0;

    while (*text && *text != end) {
        n += *text != ',' && (text[1] == ',' || text[1] == end || !text[1]);
        text++;
    }
    return n;
}

static void render_lists(const redisReply *e, struct buf *b)
{
    const redisReply *images = core_list(e, V_IMAGES), *pools = core_list(e, V_POOLS);
    const redisReply *mine = core_list(e, V_MINE);

    v1_key(b, "images");
    buf_appends(b, "[");
    for (size_t i = 0; i + 1 < images->elements; i += 2) {
        v1_comma(b);
        buf_appends(b, "{");
        v1_text(b, "name", core_text(images, i));
        v1_text(b, "digest", core_text(images, i + 1));
        buf_appends(b, "}");
    }
    buf_appends(b, "]");
    v1_key(b, "pools");
    buf_appends(b, "[");
    for (size_t i = 0; i + 1 < pools->elements; i += 2) {
        const char *ids = core_text(pools, i + 1), *semicolon = strchr(ids, ';');

        v1_comma(b);
        buf_appends(b, "{");
        v1_text(b, "image", core_text(pools, i));
        v1_int(b, "total", (int64_t)count_ids(ids, ';'));
        v1_int(b, "idle", semicolon ? (int64_t)count_ids(semicolon + 1, '\0') : 0);
        buf_appends(b, "}");
    }
    buf_appends(b, "]");
    v1_key(b, "jobs");
    buf_appends(b, "[");
    for (size_t i = 0; i + 3 < mine->elements; i += 4) {
        v1_comma(b);
        buf_appends(b, core_text(mine, i));
    }
    buf_appends(b, "]");
}

/* Lines of name, tab and why it is not used. */
static void render_hosts(const char *lines, struct buf *b)
{
    v1_key(b, "hosts");
    buf_appends(b, "[");
    for (const char *at = lines, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        cleanup_free char *name = xstrndup(at, (size_t)(end - at));
        char *why = strchr(name, '\t');

        if (!why)
            continue;
        *why++ = '\0';
        v1_comma(b);
        buf_appends(b, "{");
        v1_text(b, "name", name);
        v1_text(b, "state", *why ? "out" : "up");
        v1_text_or_null(b, "reason", why);
        buf_appends(b, "}");
    }
    buf_appends(b, "]");
}

static void render_vmm(const redisReply *e, struct buf *b)
{
    bool drain = *core_text(e, V_DRAIN) == '1';

    v1_comma(b);
    buf_appends(b, "{");
    v1_text(b, "name", core_text(e, V_NAME));
    v1_text(b, "state", *core_text(e, V_STATE) ? core_text(e, V_STATE) : "down");
    v1_bool(b, "drain", drain);
    v1_text_or_null(b, "reason", drain ? core_text(e, V_WHY) : "");
    v1_text(b, "driver", core_text(e, V_DRIVER));
    v1_int(b, "slots", core_number(e, V_SLOTS));
    v1_int(b, "running", core_number(e, V_RUNNING));
    v1_split(b, "labels", core_text(e, V_LABELS), core_text_len(e, V_LABELS), ',');
    v1_text(b, "version", core_text(e, V_VERSION));
    render_lists(e, b);
    render_hosts(core_text(e, V_HOSTS), b);
    v1_int_or_null(b, "gone_since_ms", core_number(e, V_GONE),
                   *core_text(e, V_GONE) && strcmp(core_text(e, V_STATE), "up") != 0);
    buf_appends(b, "}");
}

static void ask_vmms(struct call *c, const char *name, core_done_fn *done)
{
    const char *argv[] = {c->tenant, name};

    core_ask(c->loop->core, ASK_VMMS, 2, argv, done, c);
}

static void vmms_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{\"vmms\": [");
    for (size_t i = 1; i < a->tree->elements; i++)
        render_vmm(core_list(a->tree, i), &b);
    buf_appends(&b, "]}");
    v1_json(c, 200, &b);
}

void v1_vmms(struct call *c)
{
    ask_vmms(c, "", vmms_came);
}

static void vmm_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    render_vmm(core_list(a->tree, 1), &b);
    v1_json(c, 200, &b);
}

void v1_vmm(struct call *c)
{
    ask_vmms(c, c->param[0], vmm_came);
}

/* ---- Draining ---- */

static void drained(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status != CORE_OK || !c->req)
        failed(c, a);
    else
        ask_vmms(c, c->param[0], vmm_came);
}

static void drain(struct call *c, const char *on, const char *reason)
{
    const char *argv[] = {c->param[0], on, reason};

    core_ask(c->loop->core, ASK_DRAIN, 3, argv, drained, c);
}

/* It stands among names of states in lists and logs. */
static const char *check_reason(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return "contains a control character";
    return NULL;
}

void v1_drain(struct call *c)
{
    struct problems p = {0};
    const char *reason = NULL;
    json_t *body;

    if (!v1_body(c, &body))
        return;
    if (body) {
        v1_known(&p, body, "", "reason");
        reason = v1_string(&p, body, "", "reason", false, REASON_MAX, check_reason);
    }
    if (!problems_reply(&p, c))
        drain(c, "1", reason ? reason : "");
    json_decref(body);
}

void v1_resume(struct call *c)
{
    drain(c, "0", "");
}

/* ---- Machines ---- */

static void render_machine(struct buf *b, const char *id, size_t id_len, const char *name,
                           const char *vmm, const char *image, const char *job)
{
    v1_comma(b);
    buf_printf(b, "{\"id\": %.*s", (int)id_len, id);
    v1_text_or_null(b, "name", name);
    v1_text(b, "vmm", vmm);
    v1_text_or_null(b, "image", image);
    v1_text(b, "state", strcmp(job, "idle") == 0 ? "idle" : "busy");
    v1_key(b, "job");
    buf_appends(b, *job >= '0' && *job <= '9' ? job : "null");
    buf_appends(b, "}");
}

/* Those of a pool that wait; "total;free" as ids with commas. */
static void render_idle(struct buf *b, const char *ids, const char *vmm, const char *image)
{
    const char *semicolon = strchr(ids, ';'), *at = semicolon ? semicolon + 1 : "";

    while (*at) {
        size_t len = strspn(at, "0123456789");

        if (len)
            render_machine(b, at, len, "", vmm, image, "idle");
        at += len ? len : 1;
    }
}

static void render_machines(const redisReply *e, struct buf *b)
{
    const redisReply *pools = core_list(e, V_POOLS), *mine = core_list(e, V_MINE);
    const redisReply *others = core_list(e, V_OTHERS), *theirs = core_list(e, V_THEIR_POOLS);
    const char *vmm = core_text(e, V_NAME);

    for (size_t i = 0; i + 1 < pools->elements; i += 2)
        render_idle(b, core_text(pools, i + 1), vmm, core_text(pools, i));
    for (size_t i = 0; i < theirs->elements; i++)
        render_idle(b, core_text(theirs, i), vmm, "");
    for (size_t i = 0; i + 3 < mine->elements; i += 4)
        if (*core_text(mine, i + 1))
            render_machine(b, core_text(mine, i + 1), core_text_len(mine, i + 1),
                           core_text(mine, i + 2), vmm,
                           image_name_shown(core_text(mine, i + 3), NULL), core_text(mine, i));
    for (size_t i = 0; i < others->elements; i++)
        render_machine(b, core_text(others, i), core_text_len(others, i), "", vmm, "", "");
}

static void machines_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{\"machines\": [");
    for (size_t i = 1; i < a->tree->elements; i++) {
        const redisReply *e = core_list(a->tree, i);

        if (strcmp(core_text(e, V_STATE), "up") == 0)
            render_machines(e, &b);
    }
    buf_appends(&b, "]}");
    v1_json(c, 200, &b);
}

void v1_machines(struct call *c)
{
    ask_vmms(c, "", machines_came);
}
