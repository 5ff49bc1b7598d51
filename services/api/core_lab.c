#include "services/api/core_private.h"

#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define OPEN_FILES_MAX 5000 /* names in an answer to open */
#define LAB_FILES_MAX  200000
#define LAB_SPARED_MS  (3600 * 1000) /* what was promised for a lab stands at least so long */
#define READ_BYTES     (256u << 10)

static const struct script script_open = {
    "lab_open",
#include "api/lua/lab_open.inc"
};
static const struct script script_file = {
    "lab_file",
#include "api/lua/lab_file.inc"
};
static const struct script script_put = {
    "lab_put",
#include "api/lua/lab_put.inc"
};
static const struct script script_result = {
    "result",
#include "api/lua/result.inc"
};

static const char too_busy[] = "The server has too much to write to disk; try again";

/* ---- open ---- */

static void opened(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_answer a = {.status = CORE_OK};

    if (!status) {
        core_fail(op, why);
        free(op);
        return;
    }
    if (strcmp(status, "full") == 0) {
        a = (struct core_answer){
            .status = CORE_FULL,
            .why = "There are as many courselabs as labs_max allows, all of them in use",
            .slots = strtoull(core_text(r, 1), NULL, 10)};
        core_end(op, &a);
        free(op);
        return;
    }
    a.made = strcmp(core_text(r, 1), "1") == 0;
    a.files = xcalloc(r->elements / 2 + 1, sizeof(a.files[0]));
    for (size_t i = 2; i + 1 < r->elements; i += 2) {
        struct core_file *f = &a.files[a.file_ct];

        if (!core_file_parse(core_text(r, i + 1), f))
            continue;
        f->name = core_text(r, i);
        f->name_len = core_text_len(r, i);
        a.file_ct++;
    }
    core_end(op, &a);
    free(a.files);
    free(op);
}

void core_open(struct core *c, const char *tenant, const char *lab, core_done_fn *done, void *arg)
{
    struct core_op *op = xcalloc(1, sizeof(*op));
    int64_t wall = clock_wall_ms();
    char now[24], most[16], labs[24], spared[24];
    const char *argv[] = {tenant, lab, now, most, labs, spared};

    *op = (struct core_op){.core = c, .done = done, .arg = arg};
    snprintf(now, sizeof(now), "%" PRId64, wall);
    snprintf(most, sizeof(most), "%d", OPEN_FILES_MAX);
    snprintf(labs, sizeof(labs), "%" PRId64, c->env.cfg->labs_max);
    snprintf(spared, sizeof(spared), "%" PRId64, wall - LAB_SPARED_MS);
    core_script(op, &script_open, 6, argv, NULL, opened);
}

/* ---- store, and put ---- */

/* put: what the lab has -> a worker hashes, and writes if it is another -> the lab is told. Bare
 * storing is the middle of it. */
struct put {
    struct core_op op; /* first */
    struct work work;
    const void *data;
    size_t len;
    char *tenant, *lab, *name; /* NULL when only stored */
    struct core_file old;
    bool same;
    struct store_info info;
    struct error err;
    int ret;
};

static void put_free(struct put *p)
{
    free(p->tenant);
    free(p->lab);
    free(p->name);
    free(p);
}

static void put_fail(struct put *p, const char *why)
{
    core_fail(&p->op, why);
    put_free(p);
}

/* On a worker. */
static void put_run(struct work *w)
{
    struct put *p = H2O_STRUCT_FROM_MEMBER(struct put, work, w);
    struct store *store = p->op.core->env.store;
    char md5[MD5_HEX + 1];

    if (p->old.md5[0] && p->old.size == p->len) {
        digest_hex(DIGEST_MD5, p->data, p->len, md5);
        p->same = strcmp(md5, p->old.md5) == 0 && store_has(store, p->old.sha256) == 1;
    }
    if (!p->same)
        p->ret = store_put(store, p->data, p->len, &p->info, &p->err);
}

static void put_told(void *op, const char *status, redisReply *r, const char *why)
{
    struct put *p = op;
    struct core_file stored = {.size = p->info.size};
    struct core_answer a = {.status = CORE_OK, .files = &stored, .file_ct = 1};

    (void)r;
    if (!status) {
        put_fail(p, why);
        return;
    }
    memcpy(stored.sha256, p->info.sha256, sizeof(stored.sha256));
    memcpy(stored.md5, p->info.md5, sizeof(stored.md5));
    if (strcmp(status, "nolab") == 0)
        a.status = CORE_NO_LAB;
    else if (strcmp(status, "full") == 0)
        a.status = CORE_FULL;
    core_end(&p->op, &a);
    put_free(p);
}

static void put_done(struct work *w)
{
    struct put *p = H2O_STRUCT_FROM_MEMBER(struct put, work, w);
    struct core_answer a = {.status = p->same ? CORE_SAME : CORE_OK};
    struct core_file stored = {.size = p->info.size};
    char value[160], most[16], now[24];
    const char *argv[] = {p->tenant, p->lab, p->name, value, most, now};

    if (!p->same && p->ret < 0) {
        put_fail(p, p->err.msg);
        return;
    }
    memcpy(stored.sha256, p->info.sha256, sizeof(stored.sha256));
    memcpy(stored.md5, p->info.md5, sizeof(stored.md5));
    if (p->same)
        stored = p->old;
    if (p->same || !p->name) {
        a.files = &stored;
        a.file_ct = 1;
        core_end(&p->op, &a);
        put_free(p);
        return;
    }
    snprintf(value, sizeof(value), "%s %s %" PRIu64, stored.sha256, stored.md5, stored.size);
    snprintf(most, sizeof(most), "%d", LAB_FILES_MAX);
    snprintf(now, sizeof(now), "%" PRId64, clock_wall_ms());
    core_script(&p->op, &script_put, 6, argv, NULL, put_told);
}

static void put_work(struct put *p)
{
    const struct core_env *env = &p->op.core->env;

    p->work.run = put_run;
    p->work.done = put_done;
    if (workers_run(env->workers, env->gate, &p->work) < 0)
        put_fail(p, too_busy);
}

static void put_looked(void *op, const char *status, redisReply *r, const char *why)
{
    struct put *p = op;

    if (!status) {
        put_fail(p, why);
    } else if (strcmp(core_text(r, 1), "1") != 0) {
        core_end(&p->op, &(struct core_answer){.status = CORE_NO_LAB});
        put_free(p);
    } else {
        if (!core_file_parse(core_text(r, 2), &p->old))
            p->old.md5[0] = '\0';
        put_work(p);
    }
}

static struct put *put_new(struct core *c, const void *data, size_t len, core_done_fn *done,
                           void *arg)
{
    struct put *p = xcalloc(1, sizeof(*p));

    p->op = (struct core_op){.core = c, .done = done, .arg = arg};
    p->data = data;
    p->len = len;
    return p;
}

void core_put(struct core *c, const char *tenant, const char *lab, const char *name,
              const void *data, size_t len, core_done_fn *done, void *arg)
{
    struct put *p = put_new(c, data, len, done, arg);
    const char *argv[] = {tenant, lab, name};

    p->tenant = xstrdup(tenant);
    p->lab = xstrdup(lab);
    p->name = xstrdup(name);
    core_script(&p->op, &script_file, 3, argv, NULL, put_looked);
}

/* To end an operation from its beginning, where done() may not be called yet. */
static void put_refused(void *op)
{
    put_fail(op, too_busy);
}

void core_store(struct core *c, const void *data, size_t len, core_done_fn *done, void *arg)
{
    struct put *p = put_new(c, data, len, done, arg);

    p->work.run = put_run;
    p->work.done = put_done;
    if (workers_run(c->env.workers, c->env.gate, &p->work) < 0)
        c->env.ops->timer_start(c->env.loop, 0, put_refused, p);
}

/* ---- have ---- */

struct have {
    struct core_op op; /* first */
    struct work work;
    const struct job *job;
    bool all;
};

/* On a worker. */
static void have_run(struct work *w)
{
    struct have *h = H2O_STRUCT_FROM_MEMBER(struct have, work, w);

    h->all = true;
    for (size_t i = 0; i < h->job->file_ct && h->all; i++)
        h->all = store_has(h->op.core->env.store, h->job->files[i].sha256) == 1;
}

static void have_done(struct work *w)
{
    struct have *h = H2O_STRUCT_FROM_MEMBER(struct have, work, w);

    core_end(&h->op, &(struct core_answer){.status = h->all ? CORE_OK : CORE_NOT_FOUND});
    free(h);
}

static void have_refused(void *p)
{
    struct have *h = p;

    core_fail(&h->op, too_busy);
    free(h);
}

void core_have(struct core *c, const struct job *job, core_done_fn *done, void *arg)
{
    struct have *h = xcalloc(1, sizeof(*h));

    h->op = (struct core_op){.core = c, .done = done, .arg = arg};
    h->job = job;
    h->work.run = have_run;
    h->work.done = have_done;
    if (workers_run(c->env.workers, c->env.gate, &h->work) < 0)
        c->env.ops->timer_start(c->env.loop, 0, have_refused, h);
}

/* ---- Output ---- */

static void found_output(void *p, const char *status, redisReply *r, const char *why)
{
    struct core_op *op = p;
    struct core_file f = {0};
    struct core_answer a = {.status = CORE_NOT_FOUND, .files = &f};

    if (!status) {
        core_fail(op, why);
        free(op);
        return;
    }
    if (sscanf(core_text(r, 1), "%" SCNu64 " %64s %" SCNu64, &a.id, f.sha256, &f.size) == 3) {
        a.status = CORE_OK;
        a.file_ct = 1;
    }
    core_end(op, &a);
    free(op);
}

void core_find_output(struct core *c, const char *tenant, const char *lab, const char *name,
                      core_done_fn *done, void *arg)
{
    struct core_op *op = xcalloc(1, sizeof(*op));
    const char *argv[] = {tenant, lab, name};

    *op = (struct core_op){.core = c, .done = done, .arg = arg};
    core_script(op, &script_result, 3, argv, NULL, found_output);
}

/* ---- Reading ---- */

struct core_reader {
    struct core_op op;
    struct work work;
    char sha256[SHA256_HEX + 1];
    int fd;
    uint64_t size;
    uint64_t from, left; /* what of it is still to be read */
    size_t most;
    char *piece;
    ssize_t piece_len;
    struct error err;
    int ret;
};

/* On a worker. */
static void read_open_run(struct work *w)
{
    struct core_reader *r = H2O_STRUCT_FROM_MEMBER(struct core_reader, work, w);

    r->ret = store_get(r->op.core->env.store, r->sha256, &r->fd, &r->size, &r->err);
}

static void read_next_run(struct work *w)
{
    struct core_reader *r = H2O_STRUCT_FROM_MEMBER(struct core_reader, work, w);
    ssize_t n;

    do
        n = pread(r->fd, r->piece, r->left < r->most ? r->left : r->most, (off_t)r->from);
    while (n < 0 && errno == EINTR);
    r->piece_len = n;
    if (n > 0) {
        r->from += (uint64_t)n;
        r->left -= (uint64_t)n;
    }
    r->ret = n < 0 ? err_set_errno(&r->err, ERR_TEMPORARY, errno, "reading from the store") : 0;
}

static void read_done(struct work *w)
{
    struct core_reader *r = H2O_STRUCT_FROM_MEMBER(struct core_reader, work, w);
    struct core_answer a = {.status = CORE_OK, .bytes = r->piece, .len = (size_t)r->piece_len};

    if (r->ret == -ENOENT)
        a.status = CORE_NOT_FOUND;
    else if (r->ret < 0)
        a.status = CORE_FAILED;
    if (r->ret < 0) {
        a.why = r->err.msg;
        a.len = 0;
    }
    core_end(&r->op, &a);
}

static void read_refused(void *p)
{
    struct core_reader *r = p;

    core_fail(&r->op, too_busy);
}

static void read_start(struct core_reader *r, void (*run)(struct work *), core_done_fn *done,
                       void *arg)
{
    const struct core_env *env = &r->op.core->env;

    r->op.done = done;
    r->op.arg = arg;
    r->work.run = run;
    r->work.done = read_done;
    if (workers_run(env->workers, env->gate, &r->work) < 0)
        env->ops->timer_start(env->loop, 0, read_refused, r);
}

struct core_reader *core_read_open(struct core *c, const char *sha256, core_done_fn *done,
                                   void *arg)
{
    struct core_reader *r = xcalloc(1, sizeof(*r));

    r->op.core = c;
    r->fd = -1;
    r->left = UINT64_MAX;
    r->most = READ_BYTES;
    snprintf(r->sha256, sizeof(r->sha256), "%s", sha256);
    read_start(r, read_open_run, done, arg);
    return r;
}

void core_read_next(struct core_reader *r, core_done_fn *done, void *arg)
{
    if (!r->piece)
        r->piece = xmalloc(r->most);
    read_start(r, read_next_run, done, arg);
}

void core_read_part(struct core_reader *r, uint64_t from, uint64_t len, size_t piece)
{
    r->from = from;
    r->left = len;
    if (piece)
        r->most = piece;
}

uint64_t core_read_size(const struct core_reader *r)
{
    return r->size;
}

void core_read_close(struct core_reader *r)
{
    if (!r)
        return;
    if (r->fd >= 0)
        close(r->fd);
    free(r->piece);
    free(r);
}
