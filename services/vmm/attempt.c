/* The life of one attempt, in the order in which it happens:
 *
 *   prepare    job decoded, image resolved, inputs near, a machine taken or made, READY read
 *   load       header, tar, LOADED
 *   execute    go, heartbeats, output, the final record
 *   judge      what came of it, or what went wrong
 *   conclude   feedback stored, then committed (or given back), then the machine goes to the reaper
 *
 * A stop (attempt_stop) makes stop_fd readable and ends whatever step waits; judge then looks at
 * why. */

#include "attempt.h"

#include "agent.h"
#include "base/clock.h"
#include "base/crashpoint.h"
#include "base/image_name.h"
#include "base/log.h"
#include "base/mem.h"
#include "copyin.h"
#include "fleet.h"
#include "health.h"
#include "output.h"
#include "pipe.h"
#include "pool.h"
#include "reaper.h"
#include "report.h"
#include "sync.h"
#include "trace.h"
#include "verdict.h"
#include "watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define OUTER_SLACK_MS 10000 /* the autodriver's own clock is the one that counts */
#define CANCEL_MS      5000  /* for a cancelled job to report */
#define LAST_WORDS_MS  300   /* for a Q frame of a machine that has just gone */
#define HEADER_MAX     4096

enum stage { STAGE_BEFORE, STAGE_MAKE, STAGE_WAIT, STAGE_COPYIN, STAGE_RUN };

struct run {
    struct attempt *a;
    struct vmm *v;
    char who[HEALTH_WHO_MAX]; /* for health */
    struct job *job;
    struct machine_shape shape; /* image borrowed from the job, digest owned */
    struct machine *m;
    struct pipe pipe;
    bool piped;
    enum stage stage;
    bool uncharged; /* what went wrong is the worker's own trouble */
    bool absent;    /* the image was there when the job came, and is not now */
    uint32_t timeout_s;
    uint64_t output_bytes;
    struct output out;
    struct feedback_steps steps; /* how far it came */
    struct machine_usage usage;
    struct report_usage used; /* how the job ended, of the final record */
    struct result result;
};

/* ---- the object ---- */

struct attempt *attempt_new(struct vmm *v, const char *id, const char *token, unsigned tries,
                            unsigned charged, const void *body, size_t body_len)
{
    struct attempt *a = xcalloc(1, sizeof(*a));
    a->v = v;
    atomic_init(&a->refs, 1);
    atomic_init(&a->kill, KILL_NONE);
    snprintf(a->id, sizeof(a->id), "%s", id);
    snprintf(a->token, sizeof(a->token), "%s", token);
    a->tries = tries;
    a->charged = charged;
    a->body = xmemdup(body, body_len);
    a->body_len = body_len;
    a->stop_fd = event_new();
    a->trace = trace_new();
    return a;
}

struct attempt *attempt_ref(struct attempt *a)
{
    atomic_fetch_add(&a->refs, 1);
    return a;
}

void attempt_unref(struct attempt *a)
{
    if (atomic_fetch_sub(&a->refs, 1) != 1)
        return;
    trace_free(a->trace);
    close(a->stop_fd);
    free(a->body);
    free(a);
}

void attempt_stop(struct attempt *a, enum attempt_kill why)
{
    int old = atomic_load(&a->kill);
    while (old < (int)why && !atomic_compare_exchange_weak(&a->kill, &old, (int)why))
        ;
    event_signal(a->stop_fd);
}

enum attempt_kill attempt_killed(const struct attempt *a)
{
    return (enum attempt_kill)atomic_load(&a->kill);
}

/* ---- prepare ---- */

#define OR(given, by_default) ((given) ? (given) : (by_default))

static int decode(struct run *r, struct error *err)
{
    const struct config *c = r->v->cfg;
    int rc = job_decode(r->a->body, r->a->body_len, &r->job, err);
    if (rc < 0)
        return rc;
    const struct job_limits *l = &r->job->limits;
    r->shape = vmm_default_shape(r->v, r->job->image, NULL);
    pool_shape(r->v->pool, &r->shape);
    r->shape.cores_milli = OR(l->cores_milli, r->shape.cores_milli);
    r->shape.memory_mb = OR(l->memory_mb, r->shape.memory_mb);
    r->shape.pids = OR(l->pids, r->shape.pids);
    r->shape.fsize_bytes = OR(l->fsize_bytes, r->shape.fsize_bytes);
    r->shape.disk_bytes = OR(l->disk_bytes, r->shape.disk_bytes);
    r->shape.network = r->job->network && vmm_has_network(r->v);
    r->timeout_s = (uint32_t)OR(r->job->timeout_s, c->job_timeout_s);
    r->output_bytes = OR(l->output_bytes, (uint64_t)c->job_output_bytes);
    /* Ceilings again: a body may be older than the configuration. */
    if (r->output_bytes > (uint64_t)c->job_output_max_bytes)
        r->output_bytes = (uint64_t)c->job_output_max_bytes;
    return 0;
}

static int resolve(struct run *r, struct error *err)
{
    bool asked;
    r->shape.digest = watch_digest(r->v->watch, r->job, &asked);
    if (r->shape.digest)
        return 0;
    r->uncharged = true;
    if (!asked)
        return err_set(err, ERR_TEMPORARY, EAGAIN, "the backend does not tell its images");
    r->absent = true;
    return err_set(err, ERR_TEMPORARY, ENOENT, "no image");
}

/* Another worker may have it; when none has, the dispatcher says so. */
static bool went_meanwhile(struct run *r, const struct error *err)
{
    return r->stage == STAGE_MAKE && err->class == ERR_REFUSED && err->code == ENOENT &&
           !watch_has(r->v->watch, r->shape.digest);
}

static void tell_machine(struct run *r)
{
    trace_add(r->a, "machine", "%u %s", r->m->spec.id, r->m->spec.name);
    trace_add(r->a, "waiting", "%s", "");
}

/* A driver waits for room of which a warm machine has some. */
static void on_full(void *arg)
{
    struct run *r = arg;
    pool_yield(r->v->pool);
}

static void describe(struct run *r, struct machine_spec *spec)
{
    spec->labels = (const char *const *)r->job->labels;
    spec->label_ct = r->job->label_ct;
    spec->full = on_full;
    spec->full_arg = r;
}

static int make_machine(struct run *r, struct error *err)
{
    struct vmm *v = r->v;
    struct machine_spec spec;
    int rc = fleet_begin(v->fleet, &r->shape, &spec, err);
    if (rc < 0) {
        r->uncharged = true;
        return rc;
    }
    describe(r, &spec);
    r->stage = STAGE_MAKE;
    CRASHPOINT("vmm", "initialize", "before");
    rc = v->driver->initialize(v->backend, &spec, clock_mono_ms() + v->cfg->init_timeout_ms,
                               r->a->stop_fd, &r->m, err);
    if (rc < 0) {
        r->m = NULL;
        r->uncharged = rc == -EAGAIN; /* there was no room for it: nothing has failed */
        fleet_end(v->fleet, spec.name);
        return rc;
    }
    fleet_role(v->fleet, spec.name, FLEET_BUSY);
    tell_machine(r);
    trace_send(r->a, NULL);
    r->stage = STAGE_WAIT;
    CRASHPOINT("vmm", "initialize", "after");
    rc = pipe_ready(r->m, clock_mono_ms() + v->cfg->wait_timeout_ms, r->a->stop_fd, err);
    CRASHPOINT("vmm", "wait", "after");
    r->steps.wait_vm = rc < 0 ? -1 : 0;
    if (rc == 0)
        health_made(v->health, r->who, r->job->image);
    return rc;
}

static int prepare(struct run *r, struct error *err)
{
    int rc = decode(r, err);
    if (rc < 0)
        return rc;
    output_init(&r->out, r->a, r->output_bytes, (uint64_t)r->v->cfg->watch_bytes);
    if (attempt_killed(r->a))
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    if (!health_ok(r->v->health)) {
        r->uncharged = true;
        return err_set(err, ERR_TEMPORARY, EAGAIN, "the backend of %s is out of order", r->v->name);
    }
    trace_send(r->a, "p");
    if ((rc = resolve(r, err)) < 0)
        return rc;
    if ((rc = copyin_prefetch(r->v->store, r->job, err)) < 0) {
        r->uncharged = err->class == ERR_TEMPORARY; /* a store that is away comes back */
        return rc;
    }
    struct machine_spec want = {.shape = r->shape};
    describe(r, &want);
    r->m = pool_take(r->v->pool, &want);
    if (r->m) {
        r->steps.wait_vm = 0;
        tell_machine(r);
    } else if ((rc = make_machine(r, err)) < 0) {
        return rc;
    }
    trace_add(r->a, "ready", "%s", "");
    trace_send(r->a, NULL);
    return 0;
}

/* ---- load ---- */

static int wait_for(struct run *r, enum frame_type type, int64_t deadline, struct error *err)
{
    struct frame f;
    int rc = pipe_next(&r->pipe, deadline, &f, err);
    if (rc < 0)
        return rc;
    if (f.type == FRAME_ERROR)
        return err_set(err, ERR_TEMPORARY, EPROTO, "autodriver: %.*s",
                       (int)(f.len > 300 ? 300 : f.len), (const char *)f.data);
    if (f.type != type)
        return err_set(err, ERR_TEMPORARY, EPROTO, "the autodriver sent %c when %c was due", f.type,
                       type);
    return 0;
}

static int load(struct run *r, struct error *err)
{
    const struct config *c = r->v->cfg;
    int64_t deadline = clock_mono_ms() + c->copyin_timeout_ms;
    r->stage = STAGE_COPYIN;
    CRASHPOINT("vmm", "copyin", "before");
    r->steps.copy_in = -1;
    pipe_init(&r->pipe, r->m, r->a->stop_fd);
    r->piped = true;
    /* No nproc: it counts all processes of an account on the whole host; the machine has a bound of
     * its own. */
    struct buf h = BUF_INIT(HEADER_MAX);
    buf_printf(
        &h,
        "job=%s\ntoken=%s\ntimeout_ms=%llu\nlease_ms=%lld\noutput_bytes=%llu\nfsize_bytes=%llu\n",
        r->a->id, r->a->token, (unsigned long long)r->timeout_s * 1000, (long long)c->pipe_lease_ms,
        (unsigned long long)r->output_bytes, (unsigned long long)r->shape.fsize_bytes);
    int rc = pipe_send(&r->pipe, FRAME_HEADER, h.data, (uint32_t)h.len, deadline, err);
    buf_free(&h);
    if (rc < 0)
        return rc;
    pipe_beat(&r->pipe, c->pipe_lease_ms / 3);
    if ((rc = copyin_send(&r->pipe, r->v->store, r->job, deadline, err)) < 0 ||
        (rc = wait_for(r, FRAME_LOADED, deadline, err)) < 0)
        return rc;
    CRASHPOINT("vmm", "copyin", "after");
    r->steps.copy_in = 0;
    trace_add(r->a, "copied", "0");
    return 0;
}

/* ---- execute ---- */

static struct verdict_context context(const struct run *r)
{
    return (struct verdict_context){r->timeout_s, r->shape.memory_mb, r->shape.disk_bytes >> 20,
                                    r->usage.memory_hit};
}

/* The limit that the backend has ended the machine for. */
static enum machine_limit limit_hit(const struct run *r)
{
    return r->m && r->v->driver->limit_hit ? r->v->driver->limit_hit(r->m) : MACHINE_LIMIT_NONE;
}

static void take_end(struct run *r, const char *text, size_t len)
{
    struct report_usage u = {.known = true, .how = '-'};
    uint64_t status = 0;
    const char *outcome = "";
    int n = frame_field(text, len, "outcome", &outcome);
    frame_field_u64(text, len, "status", &status);
    frame_field_u64(text, len, "wall_ms", &u.wall_ms);
    frame_field_u64(text, len, "output_total", &u.output_bytes);
    if (n == 6 && memcmp(outcome, "exited", 6) == 0)
        u.how = 'e';
    else if (n == 8 && memcmp(outcome, "signaled", 8) == 0)
        u.how = 's';
    u.status = u.how == '-' ? 0 : (unsigned)status;
    r->used = u;
}

/* What the job has used, from the backend where it knows, else from the autodriver's record. */
static void take_usage(struct run *r, const char *text, size_t len)
{
    uint64_t cpu_ms = 0, peak_kb = 0, kills = 0, status = 0;
    const struct driver *d = r->v->driver;
    if (d->usage && d->usage(r->m, &r->usage) == 0)
        return;
    frame_field_u64(text, len, "cpu_ms", &cpu_ms);
    frame_field_u64(text, len, "status", &status);
    bool told = frame_field_u64(text, len, "oom_kills", &kills) == 0;
    if (frame_field_u64(text, len, "peak_kb", &peak_kb) < 0 || peak_kb == 0)
        frame_field_u64(text, len, "maxrss_kb", &peak_kb);
    r->usage = (struct machine_usage){cpu_ms * 1000, peak_kb * 1024, kills > 0};
    /* A backend that keeps the machine's group from it; a job that ended well was not killed. */
    if (!told && status != 0)
        r->usage.memory_hit = limit_hit(r) == MACHINE_LIMIT_MEMORY;
}

/* 1: go on; 0: the final record was taken. */
static int take_frame(struct run *r, const struct frame *f, struct error *err)
{
    const char *text = (const char *)f->data;
    struct verdict_context c;
    switch (f->type) {
    case FRAME_STARTED:
        CRASHPOINT("vmm", "run", "started");
        return 1;
    case FRAME_OUTPUT:
        output_add(&r->out, f->data, f->len);
        CRASHPOINT("vmm", "output", "after");
        return 1;
    case FRAME_FINAL:
        CRASHPOINT("vmm", "run", "after");
        take_usage(r, text, f->len);
        take_end(r, text, f->len);
        c = context(r);
        return verdict_final(text, f->len, &c, &r->steps, &r->result, err);
    case FRAME_ERROR:
        return err_set(err, ERR_TEMPORARY, EPROTO, "autodriver: %.*s",
                       (int)(f->len > 300 ? 300 : f->len), text);
    default:
        return err_set(err, ERR_TEMPORARY, EPROTO, "the autodriver sent %c while the job ran",
                       f->type);
    }
}

static int begin_cancel(struct run *r, int64_t *deadline, struct error *err)
{
    if (attempt_killed(r->a) != KILL_CANCEL || r->pipe.stop_fd < 0)
        return -ECANCELED;
    r->pipe.stop_fd = -1;
    int64_t until = clock_mono_ms() + CANCEL_MS;
    if (until < *deadline)
        *deadline = until;
    return pipe_send(&r->pipe, FRAME_CANCEL, NULL, 0, *deadline, err);
}

static int execute(struct run *r, struct error *err)
{
    int64_t deadline = clock_mono_ms() + (int64_t)r->timeout_s * 1000 + OUTER_SLACK_MS;
    r->stage = STAGE_RUN;
    CRASHPOINT("vmm", "run", "before");
    trace_send(r->a, "r");
    int rc = pipe_send(&r->pipe, FRAME_GO, NULL, 0, deadline, err);
    while (rc >= 0) {
        struct frame f;
        int64_t until = r->out.flush_at < deadline ? r->out.flush_at : deadline;
        rc = pipe_next(&r->pipe, until, &f, err);
        if (rc == -ETIMEDOUT && clock_mono_ms() < deadline)
            rc = 1;
        else if (rc == -ECANCELED)
            rc = begin_cancel(r, &deadline, err);
        else if (rc == 0 && (rc = take_frame(r, &f, err)) == 0)
            return 0;
        output_flush(&r->out);
    }
    return rc;
}

/* ---- judge ---- */

/* A machine that has ended may have said why. */
static void last_words(struct run *r, struct error *err)
{
    struct frame f;
    struct error e = ERROR_INIT;
    int64_t deadline = clock_mono_ms() + LAST_WORDS_MS;
    r->pipe.stop_fd = -1;
    r->pipe.beat_ms = 0;
    while (pipe_next(&r->pipe, deadline, &f, &e) == 0) {
        if (f.type == FRAME_OUTPUT)
            output_add(&r->out, f.data, f.len);
        if (f.type == FRAME_ERROR)
            err_set(err, ERR_TEMPORARY, EPROTO, "autodriver: %.*s",
                    (int)(f.len > 300 ? 300 : f.len), (const char *)f.data);
    }
}

static void give_back(struct run *r, bool charge, const char *why)
{
    r->result = (struct result){.kind = RESULT_GIVEBACK, .charge = charge};
    snprintf(r->result.why, sizeof(r->result.why), "%.399s", why);
}

/* True when the attempt was stopped and the result says so. */
static bool judge_stop(struct run *r)
{
    switch (attempt_killed(r->a)) {
    case KILL_FENCED:
        r->result = (struct result){.kind = RESULT_DROP};
        return true;
    case KILL_HANDBACK:
        give_back(r, false, "the worker is being stopped");
        return true;
    case KILL_LEASE:
        give_back(r, false, "the worker lost sight of Redis");
        return true;
    case KILL_CANCEL: /* whether or not it still reported in CANCEL_MS */
        verdict_cancelled(&r->result);
        return true;
    default:
        return false;
    }
}

static const char *counter_of(const struct run *r)
{
    switch (r->stage) {
    case STAGE_WAIT:
        return "waitvm_timeouts";
    case STAGE_COPYIN:
        return "copyin_errors";
    case STAGE_RUN:
        return "runjob_errors";
    default:
        return NULL;
    }
}

/* The worker's trouble as a whole, not this machine's? */
static bool blame_worker(struct run *r, const struct error *err)
{
    if (r->stage == STAGE_MAKE || r->stage == STAGE_WAIT)
        return !health_failed(r->v->health, r->who, r->job->image, err);
    return r->stage > STAGE_WAIT && err->code == EPIPE && health_lost_machine(r->v->health);
}

/* Rented, and taken back? */
static bool is_excused(const struct run *r)
{
    const struct driver *d = r->v->driver;
    return r->m && r->stage >= STAGE_WAIT && d->excused && d->excused(r->m);
}

static void judge(struct run *r, int rc, struct error *err)
{
    if (judge_stop(r))
        return;
    if (!r->job) { /* another try would read the same bytes; the student did not write them */
        verdict_gave_up(err->msg, &r->result);
        return;
    }
    if (r->absent || went_meanwhile(r, err)) {
        watch_tell_images(r->v->watch); /* or it would come here again */
        give_back(r, false, "");
        snprintf(r->result.why, sizeof(r->result.why), "image %.200s is not on worker %s any more",
                 image_name_shown(r->job->image, NULL), r->v->name);
        return;
    }
    if (err->class == ERR_REFUSED) {
        verdict_refused(err->msg, &r->result);
        return;
    }
    if (r->piped && rc == -EPIPE)
        last_words(r, err);
    struct verdict_context c = context(r);
    if (r->stage == STAGE_RUN && rc == -ETIMEDOUT) { /* its own clock has stopped, ours has not */
        r->steps.run_job = -1;
        verdict_timed_out(&c, &r->result);
        return;
    }
    enum machine_limit hit = r->stage == STAGE_RUN ? limit_hit(r) : MACHINE_LIMIT_NONE;
    if (hit != MACHINE_LIMIT_NONE) {
        r->steps.run_job = 3;
        if (hit == MACHINE_LIMIT_DISK)
            verdict_disk(&c, &r->result);
        else /* the autodriver itself was among what the limit killed */
            verdict_memory(&c, 137, &r->result);
        return;
    }
    char why[400];
    if (r->stage == STAGE_WAIT && rc == -ETIMEDOUT)
        snprintf(why, sizeof(why), "waitVM timeout after %lld secs",
                 (long long)r->v->cfg->wait_timeout_ms / 1000);
    else
        snprintf(why, sizeof(why), "%.399s", err->msg);
    bool charge = !r->uncharged && !blame_worker(r, err) && !is_excused(r);
    if (charge && r->a->charged >= (unsigned)r->v->cfg->job_retries) {
        r->result = (struct result){.kind = RESULT_COMMIT};
        verdict_gave_up(why, &r->result);
    } else {
        give_back(r, charge, why);
    }
    r->result.counter = counter_of(r);
}

/* ---- conclude ---- */

static void hand_machine(struct run *r)
{
    if (r->piped)
        pipe_done(&r->pipe);
    r->piped = false;
    if (r->m)
        reaper_hand(r->v->reaper, r->m);
    r->m = NULL;
}

static void log_end(struct run *r)
{
    const struct result *x = &r->result;
    static const char *const events[] = {"attempt.over", "attempt.given_back", "attempt.dropped"};
    log_event(x->kind == RESULT_COMMIT ? LOG_INFO_ : LOG_WARN_, events[x->kind], "job", r->a->id,
              "token", r->a->token, "verdict",
              x->kind == RESULT_COMMIT ? job_verdict_name(x->verdict) : "", "machine",
              r->m ? r->m->spec.name : "", "reason",
              x->kind == RESULT_GIVEBACK ? x->why : x->message, "output", LOG_NUM(r->out.data.len),
              "cpu_ms", LOG_NUM(r->usage.cpu_us / 1000), "peak_kb",
              LOG_NUM(r->usage.peak_bytes / 1024), NULL);
}

static void conclude(struct run *r)
{
    struct result *x = &r->result;
    log_end(r);
    if (x->kind == RESULT_COMMIT) {
        if (r->steps.run_job != FEEDBACK_NO_STATUS) {
            r->steps.copy_out = 0;
            trace_add(r->a, "executed", "%d", r->steps.run_job);
            trace_add(r->a, "output", "0");
            trace_send(r->a, "c");
        }
        r->used.cpu_ms = r->usage.cpu_us / 1000;
        r->used.peak_kb = r->usage.peak_bytes / 1024;
        struct report rep = {r->a,   r->job, x, &r->steps, r->out.data.data, r->out.data.len,
                             r->used};
        CRASHPOINT("vmm", "copyout", "before");
        report_commit(&rep);
        CRASHPOINT("vmm", "copyout", "after");
        agent_done(r->v->agent, r->a);
        hand_machine(r);
        return;
    }
    /* Nothing of this machine is wanted any more, and Redis may be long in answering. */
    hand_machine(r);
    if (x->kind == RESULT_GIVEBACK)
        report_giveback(r->a, x);
    agent_done(r->v->agent, r->a);
}

void attempt_run(struct attempt *a)
{
    struct run r = {
        .a = a,
        .v = a->v,
        .steps = {FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS}};
    struct error err = ERROR_INIT;
    int rc;
    snprintf(r.who, sizeof(r.who), "job %s", a->id);
    if ((rc = prepare(&r, &err)) < 0 || (rc = load(&r, &err)) < 0 || (rc = execute(&r, &err)) < 0)
        judge(&r, rc, &err);
    conclude(&r);
    output_done(&r.out);
    free(r.shape.digest);
    job_free(r.job);
}
