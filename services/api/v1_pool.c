/* Pools of warm machines, and images. */

#include "services/api/v1.h"

#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define MACHINES_MAX 1000
#define WAIT_MAX_S   25

static void failed(struct call *c, const struct core_answer *a)
{
    problem_core(c, a, v1_what("image", c->param[0] ? c->param[0] : ""));
}

static bool image_ok(struct call *c)
{
    const char *why = image_name_check(c->param[0], c->param_len[0]);

    if (!why)
        return true;
    if (c->method == ROUTE_PUT)
        problem(c, 422, "invalid", "The image's name %s", why);
    else
        problem(c, 404, "not-found", "There is no such image: its name %s", why);
    return false;
}

/* ---- Pools ---- */

struct pool_row {
    const char *image, *wish;
    int64_t target, total, idle;
    struct buf vmms;
};

struct pools {
    struct pool_row *rows;
    size_t ct;
};

static struct pool_row *row_of(struct pools *p, const char *image)
{
    for (size_t i = 0; i < p->ct; i++)
        if (strcmp(p->rows[i].image, image) == 0)
            return &p->rows[i];
    p->rows = xrealloc(p->rows, (p->ct + 1) * sizeof(*p->rows));
    p->rows[p->ct] = (struct pool_row){.image = image, .wish = ""};
    buf_init(&p->rows[p->ct].vmms, SIZE_MAX);
    return &p->rows[p->ct++];
}

static int64_t count(const char *text)
{
    int64_t n = 0;

    while (*text && *text != ';') {
        size_t digits = strspn(text, "0123456789");

        n += digits > 0;
        text += digits ? digits : 1;
    }
    return n;
}

static const char *value_of(const redisReply *list, const char *key)
{
    for (size_t i = 0; i + 1 < list->elements; i += 2)
        if (strcmp(core_text(list, i), key) == 0)
            return core_text(list, i + 1);
    return "";
}

static void add_vmm(struct pool_row *r, const char *vmm, const char *want, const char *ids)
{
    const char *semicolon = strchr(ids, ';');
    int64_t target = strtoll(want, NULL, 10), total = count(ids);
    int64_t idle = semicolon ? count(semicolon + 1) : 0;
    struct buf *b = &r->vmms;

    r->target += target;
    r->total += total;
    r->idle += idle;
    if (b->len)
        buf_appends(b, ", ");
    buf_appends(b, "{");
    v1_text(b, "name", vmm);
    v1_int(b, "target", target);
    v1_int(b, "total", total);
    v1_int(b, "idle", idle);
    buf_appends(b, "}");
}

static void render_pool(const struct pool_row *r, struct buf *b)
{
    int64_t n, cores, memory;

    v1_comma(b);
    buf_appends(b, "{");
    v1_text(b, "image", r->image);
    v1_key(b, "wish");
    if (sscanf(r->wish, "%" SCNd64 " %" SCNd64 " %" SCNd64, &n, &cores, &memory) == 3)
        buf_printf(b, "{\"machines\": %" PRId64 ", \"cores\": %.15g, \"memory_mb\": %" PRId64 "}",
                   n, (double)cores / 1000, memory);
    else
        buf_appends(b, "null");
    v1_int(b, "target", r->target);
    v1_int(b, "total", r->total);
    v1_int(b, "idle", r->idle);
    v1_key(b, "vmms");
    buf_printf(b, "[%s]}", r->vmms.len ? r->vmms.data : "");
}

static void pools_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    struct pools p = {0};

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    for (size_t i = 0; i + 1 < core_list(a->tree, 1)->elements; i += 2)
        row_of(&p, core_text(core_list(a->tree, 1), i))->wish =
            core_text(core_list(a->tree, 1), i + 1);
    for (size_t i = 2; i < a->tree->elements; i++) {
        const redisReply *e = core_list(a->tree, i), *wants = core_list(e, 1);
        const redisReply *pools = core_list(e, 2);

        for (size_t k = 0; k + 1 < wants->elements; k += 2)
            add_vmm(row_of(&p, core_text(wants, k)), core_text(e, 0), core_text(wants, k + 1),
                    value_of(pools, core_text(wants, k)));
        for (size_t k = 0; k + 1 < pools->elements; k += 2)
            if (!*value_of(wants, core_text(pools, k)))
                add_vmm(row_of(&p, core_text(pools, k)), core_text(e, 0), "0",
                        core_text(pools, k + 1));
    }
    buf_appends(&b, "{\"pools\": [");
    for (size_t i = 0; i < p.ct; i++) {
        render_pool(&p.rows[i], &b);
        buf_free(&p.rows[i].vmms);
    }
    buf_appends(&b, "]}");
    free(p.rows);
    v1_json(c, 200, &b);
}

void v1_pools(struct call *c)
{
    const char *argv[] = {c->tenant};

    core_ask(c->loop->core, ASK_POOLS, 1, argv, pools_came, c);
}

/* What a wish was, until it is answered. */
struct wish {
    uint64_t machines;
};

static void wished(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    const struct wish *w = c->state;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK && a->status != CORE_LATE) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{");
    v1_text(&b, "image", c->param[0]);
    v1_int(&b, "machines", (int64_t)w->machines);
    v1_bool(&b, "reached", a->status == CORE_OK);
    v1_text_or_null(&b, "detail", a->status == CORE_OK ? "" : a->why);
    buf_appends(&b, "}");
    v1_json(c, a->status == CORE_OK ? 200 : 202, &b);
}

void v1_pool_put(struct call *c)
{
    const struct config *g = c->loop->server->cfg;
    struct problems p = {0};
    struct wish *w;
    uint64_t wait_s;
    double n, cores, memory;
    json_t *body;

    if (!image_ok(c) || !v1_query_number(c, "wait_s", 0, WAIT_MAX_S, 0, &wait_s) ||
        !v1_body(c, &body))
        return;
    v1_known(&p, body, "", "machines cores memory_mb");
    n = v1_number(&p, body, "", "machines", true, 0, MACHINES_MAX);
    cores = v1_number(&p, body, "", "cores", false, 0.01, (double)g->job_cores_max_milli / 1000);
    memory = v1_number(&p, body, "", "memory_mb", true, 1, (double)g->job_memory_max_mb);
    if (!json_object_get(body, "machines"))
        problems_add(&p, body ? "/machines" : "", "is missing");
    if (json_object_get(body, "cores") && !json_object_get(body, "memory_mb"))
        problems_add(&p, "/memory_mb", "is missing: cores go with it");
    if (json_object_get(body, "memory_mb") && !json_object_get(body, "cores"))
        problems_add(&p, "/cores", "is missing: memory_mb goes with it");
    json_decref(body);
    if (problems_reply(&p, c))
        return;
    w = xcalloc(1, sizeof(*w));
    w->machines = (uint64_t)n;
    c->state = w;
    c->free_state = free;
    core_prealloc(c->loop->core, c->tenant, c->param[0], (unsigned)n,
                  (unsigned)(cores * 1000 + 0.5), (unsigned)memory, (unsigned)wait_s * 1000, wished,
                  c);
}

static void unwished(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_OK)
        reply_bytes(c, 204, NULL, "", "", 0);
    else
        problem_core(c, a, v1_what("wish for a pool of", c->param[0]));
}

void v1_pool_delete(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0]};

    if (image_ok(c))
        core_ask(c->loop->core, ASK_UNWISH, 2, argv, unwished, c);
}

/* ---- Images ---- */

/* Which of two images of one name is meant: all tenants' or the tenant's own. */
enum whose { WHOSE_ANY, WHOSE_OWN, WHOSE_SHARED };

static bool take_whose(struct call *c, enum whose *ret)
{
    const char *shared = call_query(c, "shared");
    bool is_shared = shared && strcmp(shared, "true") == 0;

    if (shared && !is_shared && strcmp(shared, "false") != 0) {
        problem(c, 400, "bad-parameter", "shared is \"%.60s\"; it is true or false", shared);
        return false;
    }
    if (is_shared && c->scope < SCOPE_ADMIN) {
        problem(
            c, 403, "forbidden",
            "What all tenants share is for a key of scope admin; without shared=true it is this "
            "tenant's own");
        return false;
    }
    *ret = !shared ? WHOSE_ANY : is_shared ? WHOSE_SHARED : WHOSE_OWN;
    return true;
}

static void render_build(const char *text, struct buf *b)
{
    char state[16] = "", sha256[SHA256_HEX + 1] = "";
    int at = 0;

    v1_key(b, "build");
    if (sscanf(text, "%15s %64s %n", state, sha256, &at) < 2) {
        buf_appends(b, "null");
        return;
    }
    buf_appends(b, "{");
    v1_text(b, "state", state);
    v1_text(b, "sha256", sha256);
    v1_text_or_null(b, "detail", at ? text + at : "");
    buf_appends(b, "}");
}

static void render_image(const redisReply *e, struct buf *b)
{
    v1_comma(b);
    buf_appends(b, "{");
    v1_text(b, "name", core_text(e, 0));
    v1_bool(b, "shared", *core_text(e, 4) == '1');
    v1_split(b, "digests", core_text(e, 1), core_text_len(e, 1), ' ');
    v1_key(b, "vmms");
    buf_appends(b, "[");
    for (size_t i = 5; i < e->elements; i++) {
        v1_comma(b);
        out_cstr(b, core_text(e, i));
    }
    buf_appends(b, "]");
    render_build(core_text(e, 2), b);
    v1_int_or_null(b, "last_used_ms", core_number(e, 3), *core_text(e, 3));
    buf_appends(b, "}");
}

static void images_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    bool one = c->route->pattern[strlen("/v1/images")];

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    if (!one)
        buf_appends(&b, "{\"images\": [");
    for (size_t i = 1; i < a->tree->elements; i++)
        render_image(core_list(a->tree, i), &b);
    if (!one)
        buf_appends(&b, "]}");
    v1_json(c, 200, &b);
}

void v1_images(struct call *c)
{
    const char *argv[] = {c->tenant, ""};

    core_ask(c->loop->core, ASK_IMAGES, 2, argv, images_came, c);
}

void v1_image(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0]};

    if (image_ok(c))
        core_ask(c->loop->core, ASK_IMAGES, 2, argv, images_came, c);
}

/* What an upload will be; in the call's state. */
struct upload {
    bool shared;
    char *full;
};

static void upload_free(void *state)
{
    struct upload *u = state;

    free(u->full);
    free(u);
}

static void built(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    const struct upload *u = c->state;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status == CORE_FAILED && a->file_ct == 0) {
        problem_core(c, a, "image");
        return;
    }
    if (a->status == CORE_FAILED) {
        problem(c, 422, "image-refused", "%s", a->why);
        return;
    }
    if (a->status == CORE_FULL) {
        problem(c, 409, "images-full", "%s", a->why);
        return;
    }
    buf_appends(&b, "{");
    v1_text(&b, "name", c->param[0]);
    v1_bool(&b, "shared", u->shared);
    v1_text(&b, "sha256", a->files[0].sha256);
    v1_int(&b, "size", (int64_t)a->files[0].size);
    v1_text(&b, "state", a->status == CORE_OK ? "done" : "wanted");
    v1_text_or_null(&b, "detail", a->status == CORE_OK ? "" : a->why);
    buf_appends(&b, "}");
    v1_json(c, a->status == CORE_OK ? 200 : 202, &b);
}

void v1_image_put(struct call *c)
{
    uint64_t wait_s;
    enum whose whose;
    struct upload *u;
    const char *why;

    if (!image_ok(c) || !v1_query_number(c, "wait_s", 0, WAIT_MAX_S, 0, &wait_s) ||
        !take_whose(c, &whose))
        return;
    u = xcalloc(1, sizeof(*u));
    c->state = u;
    c->free_state = upload_free;
    u->shared = whose == WHOSE_SHARED || (whose == WHOSE_ANY && c->scope >= SCOPE_ADMIN);
    u->full = u->shared ? xstrdup(c->param[0]) : image_name_own(c->tenant, c->param[0]);
    why = name_check_image(u->full, strlen(u->full));
    if (why)
        problem(c, 422, "invalid", "As the name of a tenant's own image, %.255s %s", c->param[0],
                why);
    else
        core_build(c->loop->core, u->full, c->req->entity.base, c->req->entity.len,
                   (unsigned)wait_s * 1000, built, c);
}

static void image_dropped(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_CONFLICT && strcmp(a->why, "shared") == 0 && c->scope < SCOPE_ADMIN)
        problem(c, 403, "forbidden",
                "Image %s is all tenants': removing it needs a key of scope admin", c->param[0]);
    else if (a->status == CORE_CONFLICT && strcmp(a->why, "shared") == 0)
        problem(c, 404, "not-found", "There is no image %s of this tenant's own; one is shared",
                c->param[0]);
    else if (a->status == CORE_CONFLICT)
        problem(c, 409, "in-use", "Image %s is in use: %s", c->param[0], a->why);
    else if (a->status == CORE_OK)
        reply_bytes(c, 202, NULL, "", "", 0);
    else
        failed(c, a);
}

void v1_image_delete(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0], ""};
    enum whose whose;

    if (!image_ok(c) || !take_whose(c, &whose))
        return;
    if (whose == WHOSE_SHARED)
        argv[2] = "shared";
    else if (whose == WHOSE_OWN || c->scope < SCOPE_ADMIN)
        argv[2] = "own";
    core_ask(c->loop->core, ASK_IMAGE_DROP, 3, argv, image_dropped, c);
}
