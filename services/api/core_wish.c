/* Wishes and waiting for them. A wish is state in Redis that a vmm brings about on a thread of its
 * own and reports on; who waits here is an entry in a list and holds nothing up. Reports are hints:
 * on each, and whenever the subscription is (again) confirmed, the state is read anew. */

#include "services/api/core_private.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>

#define WAITS_MAX 256

static const struct script script_wish_pool = {
    "wish_pool",
#include "api/lua/wish_pool.inc"
};
static const struct script script_wish_build = {
    "wish_build",
#include "api/lua/wish_build.inc"
};
static const struct script script_build_state = {
    "build_state",
#include "api/lua/build_state.inc"
};

enum wait_kind { WAIT_POOL, WAIT_BUILD };
#define WAIT_KINDS 2
static const char *const channel_names[WAIT_KINDS] = {"pools", "builds"};

struct wait {
    TAILQ_ENTRY(wait) link;
    struct core_op op;    /* of the caller */
    struct core_op check; /* of the script that looks */
    enum wait_kind kind;
    char *tenant; /* pool */
    char *image;  /* build: its full name */
    unsigned n, wait_ms;
    uint64_t size; /* build: of the archive */
    char sha256[SHA256_HEX + 1];
    bool waiting, checking, check_again, over;
    unsigned total, vmms; /* pool: when last looked at */
    void *timer;
};

struct wait_channel {
    struct waits *waits;
    enum wait_kind kind;
    struct hub_listener listener; /* while anybody waits */
};

struct waits {
    struct core *core;
    struct wait_channel channels[WAIT_KINDS];
    TAILQ_HEAD(wait_list, wait) list;
    unsigned ct[WAIT_KINDS];
};

static void wait_check(struct wait *w);

/* ---- The list ---- */

static void check_all(struct waits *ws, enum wait_kind kind, const char *image)
{
    struct wait *w, *next;

    for (w = TAILQ_FIRST(&ws->list); w; w = next) {
        next = TAILQ_NEXT(w, link); /* a look never answers at once */
        if (w->kind == kind && (!image || kind != WAIT_BUILD || strcmp(image, w->image) == 0))
            wait_check(w);
    }
}

static void on_look(void *arg)
{
    struct wait_channel *ch = arg;

    check_all(ch->waits, ch->kind, NULL);
}

static void on_message(void *arg, const char *data, size_t len)
{
    struct wait_channel *ch = arg;
    char *payload = xstrndup(data, len);

    check_all(ch->waits, ch->kind, payload);
    free(payload);
}

void core_waits_start(struct core *c)
{
    struct waits *ws = xcalloc(1, sizeof(*ws));

    ws->core = c;
    TAILQ_INIT(&ws->list);
    for (int k = 0; k < WAIT_KINDS; k++) {
        ws->channels[k].waits = ws;
        ws->channels[k].kind = (enum wait_kind)k;
        ws->channels[k].listener =
            (struct hub_listener){.message = on_message, .look = on_look, .arg = &ws->channels[k]};
    }
    c->waits = ws;
}

static void wait_free(struct wait *w)
{
    free(w->tenant);
    free(w->image);
    free(w);
}

/* Ends the caller's operation; w itself stays until no look is under way. */
static void wait_over(struct wait *w, enum core_status status, const char *why)
{
    struct core *c = w->op.core;
    struct waits *ws = c->waits;
    struct core_file archive = {.size = w->size};

    if (w->waiting) {
        TAILQ_REMOVE(&ws->list, w, link);
        if (--ws->ct[w->kind] == 0)
            hub_unlisten(c->hub, &ws->channels[w->kind].listener);
        if (w->timer)
            c->env.ops->timer_stop(c->env.loop, w->timer);
    }
    w->waiting = false;
    w->over = true;
    memcpy(archive.sha256, w->sha256, sizeof(archive.sha256));
    core_end(&w->op,
             &(struct core_answer){
                 .status = status, .why = why, .files = &archive, .file_ct = *w->sha256 ? 1 : 0});
    if (!w->checking)
        wait_free(w);
}

static void wait_late(void *p)
{
    struct wait *w = p;
    char why[160];

    w->timer = NULL;
    if (w->kind == WAIT_BUILD)
        snprintf(why, sizeof(why), "the image is not built yet; ask again");
    else
        snprintf(why, sizeof(why), "%u of %u machines are ready; the wish stands, ask again",
                 w->total, w->n);
    wait_over(w, w->kind == WAIT_POOL && w->vmms && w->total >= w->n ? CORE_OK : CORE_LATE, why);
}

static void wait_begin(struct wait *w)
{
    struct core *c = w->op.core;
    struct waits *ws = c->waits;

    if (ws->ct[WAIT_POOL] + ws->ct[WAIT_BUILD] >= WAITS_MAX) {
        wait_over(w, CORE_LATE, "too many others wait already; the wish stands");
        return;
    }
    w->waiting = true;
    TAILQ_INSERT_TAIL(&ws->list, w, link);
    w->timer = c->env.ops->timer_start(c->env.loop, w->wait_ms, wait_late, w);
    if (ws->ct[w->kind]++ == 0)
        hub_listen(c->hub, &ws->channels[w->kind].listener, channel_names[w->kind]);
    wait_check(w);
}

/* ---- Looking ---- */

/* After a look: true when w is to be looked at no more, and perhaps freed. */
static bool checked(struct wait *w)
{
    bool over = w->over;

    w->checking = false;
    if (over)
        wait_free(w);
    return over;
}

static void check_next(struct wait *w)
{
    bool again = w->check_again;

    w->check_again = false;
    if (again)
        wait_check(w);
}

static void pool_looked(void *arg, const struct core_answer *a)
{
    struct wait *w = arg;
    size_t total = 0, idle = 0;

    if (checked(w) || a->status != CORE_OK) /* Redis went away: the next on_up looks again */
        return;
    for (size_t i = 0; i < a->pool_ct; i++) {
        if (strcmp(a->pools[i].image, w->image) == 0) {
            total = a->pools[i].total_ct;
            idle = a->pools[i].free_ct;
        }
    }
    w->total = (unsigned)total;
    w->vmms = (unsigned)a->slots;
    /* Machines that are at work can not be taken away, so more of them than wished is no obstacle.
     */
    if (!w->vmms)
        wait_over(w, CORE_LATE,
                  "no worker is up to make machines: start milonga-vmm; the wish stands and is "
                  "fulfilled then");
    else if (total >= w->n && idle <= w->n)
        wait_over(w, CORE_OK, "");
    else
        check_next(w);
}

static void build_looked(void *op, const char *status, redisReply *r, const char *why)
{
    struct wait *w = H2O_STRUCT_FROM_MEMBER(struct wait, check, op);
    char state[16] = "", sha[SHA256_HEX + 1] = "";
    int at = 0;

    (void)why;
    if (checked(w) || !status)
        return;
    sscanf(core_text(r, 1), "%15s %64s %n", state, sha, &at);
    if (strcmp(sha, w->sha256) != 0)
        wait_over(w, CORE_FAILED, "another image of that name was sent meanwhile");
    else if (strcmp(state, "done") == 0)
        wait_over(w, CORE_OK, "");
    else if (strcmp(state, "failed") == 0)
        wait_over(w, CORE_FAILED, core_text(r, 1) + at);
    else
        check_next(w);
}

static void wait_check(struct wait *w)
{
    struct core *c = w->op.core;
    const char *argv[] = {w->image};

    if (w->checking) { /* what was read may be from before the report */
        w->check_again = true;
        return;
    }
    w->checking = true;
    w->check = (struct core_op){.core = c};
    if (w->kind == WAIT_POOL)
        core_pools(c, w->tenant, pool_looked, w);
    else
        core_script(&w->check, &script_build_state, 1, argv, NULL, build_looked);
}

/* ---- prealloc ---- */

static struct wait *wait_new(struct core *c, enum wait_kind kind, const char *image,
                             unsigned wait_ms, core_done_fn *done, void *arg)
{
    struct wait *w = xcalloc(1, sizeof(*w));

    w->op = (struct core_op){.core = c, .done = done, .arg = arg};
    w->kind = kind;
    w->image = xstrdup(image);
    w->wait_ms = wait_ms;
    return w;
}

static void pool_wished(void *op, const char *status, redisReply *r, const char *why)
{
    struct wait *w = H2O_STRUCT_FROM_MEMBER(struct wait, op, op);

    (void)r;
    if (!status)
        wait_over(w, CORE_FAILED, why);
    else if (strcmp(status, "noimage") == 0)
        wait_over(w, CORE_NOT_FOUND, "");
    else
        wait_begin(w);
}

void core_prealloc(struct core *c, const char *tenant, const char *image, unsigned n,
                   unsigned cores_milli, unsigned memory_mb, unsigned wait_ms, core_done_fn *done,
                   void *arg)
{
    struct wait *w = wait_new(c, WAIT_POOL, image, wait_ms, done, arg);
    char count[16], cores[16], memory[16];
    const char *argv[] = {tenant, image, count, cores, memory};

    w->tenant = xstrdup(tenant);
    w->n = n;
    snprintf(count, sizeof(count), "%u", n);
    snprintf(cores, sizeof(cores), "%u", cores_milli);
    snprintf(memory, sizeof(memory), "%u", memory_mb);
    core_script(&w->op, &script_wish_pool, 5, argv, NULL, pool_wished);
}

/* ---- build ---- */

static void wait_full(struct wait *w)
{
    char why[160];

    snprintf(why, sizeof(why),
             "This tenant has %" PRId64 " images, as many as tenant_images_max allows: remove one",
             w->op.core->env.cfg->tenant_images_max);
    wait_over(w, CORE_FULL, why);
}

static void build_wished(void *op, const char *status, redisReply *r, const char *why)
{
    struct wait *w = H2O_STRUCT_FROM_MEMBER(struct wait, op, op);

    if (!status)
        wait_over(w, CORE_FAILED, why);
    else if (strcmp(status, "full") == 0)
        wait_full(w);
    else if (strncmp(core_text(r, 1), "done ", 5) == 0)
        wait_over(w, CORE_OK, "");
    else if (strcmp(core_text(r, 2), "0") == 0)
        wait_over(
            w, CORE_LATE,
            "no worker is up to build it: start milonga-vmm; the image is kept and built then");
    else
        wait_begin(w);
}

static void build_stored(void *arg, const struct core_answer *a)
{
    struct wait *w = arg;
    char now[24], most[24];
    const char *argv[] = {w->image, w->sha256, now, most};

    if (a->status != CORE_OK) {
        wait_over(w, CORE_FAILED, a->why);
        return;
    }
    memcpy(w->sha256, a->files[0].sha256, sizeof(w->sha256));
    w->size = a->files[0].size;
    snprintf(now, sizeof(now), "%" PRId64, clock_wall_ms());
    snprintf(most, sizeof(most), "%" PRId64, w->op.core->env.cfg->tenant_images_max);
    core_script(&w->op, &script_wish_build, 4, argv, NULL, build_wished);
}

void core_build(struct core *c, const char *name, const void *data, size_t len, unsigned wait_ms,
                core_done_fn *done, void *arg)
{
    core_store(c, data, len, build_stored, wait_new(c, WAIT_BUILD, name, wait_ms, done, arg));
}
