/* Output and events as they come, by SSE. */

#include "services/api/v1.h"

#include "base/image_name.h"
#include "base/mem.h"
#include "services/api/sse.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define PIECE       (48u << 10) /* bytes of output in an event; a multiple of 3 */
#define OFFSET_MAX  (1ull << 40)
#define PENDING_MAX (256u << 10) /* events that a slow listener may be behind */
#define CATCH_UP    "500"
#define AGAIN_MS    1000 /* after a look that failed */

static const char *last_event_id(const struct call *c, char *out, size_t size)
{
    size_t len = 0;
    const char *text = call_header(c, "last-event-id", &len);

    if (!text || len == 0)
        return NULL;
    snprintf(out, size, "%.*s", (int)(len < size ? len : size - 1), text);
    return out;
}

/* ---- Output ---- */

/* Streams that are at the same place send the same text. */
struct memo {
    char token[JOB_TOKEN_TEXT]; /* another attempt's output may be as long */
    uint64_t from, to;
    struct sse_text *text;
};

struct output {
    struct sse sse; /* first */
    struct core_watcher watcher;
    struct call *call; /* until the answer has begun */
    struct core *core;
    uint64_t id;
    char token[JOB_TOKEN_TEXT]; /* whose output was sent; "" none yet */
    uint64_t offset;
    bool placed; /* token and offset are the client's */
    struct core_reader *reader;
    uint64_t left; /* of the reader */
    bool reading, stopped, said_end;
};

static void output_free(struct output *o)
{
    core_unwatch(o->core, &o->watcher);
    core_read_close(o->reader);
    free(o);
}

static void output_stop(struct sse *s)
{
    struct output *o = (struct output *)s;

    o->stopped = true;
    core_unwatch(o->core, &o->watcher);
    if (!o->reading)
        output_free(o);
}

static struct sse_text *encode(const struct output *o, const void *bytes, size_t len)
{
    struct sse_text *t = xmalloc(sizeof(*t) + len / 3 * 4 + 128);
    int n =
        sprintf(t->data, "event: output\nid: %s-%" PRIu64 "\ndata: ", o->token, o->offset + len);

    n += EVP_EncodeBlock((unsigned char *)t->data + n, bytes, (int)len);
    memcpy(t->data + n, "\n\n", 2);
    t->refs = 1;
    t->len = (size_t)n + 2;
    return t;
}

static void memo_free(void *p)
{
    struct memo *m = p;

    sse_text_unref(m->text);
    free(m);
}

static void send_live(struct output *o, const struct core_view *v)
{
    uint64_t to = v->len - o->offset > PIECE ? o->offset + PIECE : v->len;
    void (**drop)(void *memo);
    struct memo **at = (struct memo **)core_watch_memo(&o->watcher, &drop);
    struct memo *m = *at;

    if (!m) {
        m = *at = xcalloc(1, sizeof(*m));
        *drop = memo_free;
    }
    if (!m->text || m->from != o->offset || m->to != to || strcmp(m->token, o->token) != 0) {
        sse_text_unref(m->text);
        memcpy(m->token, o->token, sizeof(m->token));
        m->text = encode(o, v->bytes + o->offset, (size_t)(to - o->offset));
        m->from = o->offset;
        m->to = to;
    }
    o->offset = to;
    sse_send(&o->sse, sse_text_ref(m->text));
}

/* What came so far was of another attempt. */
static void send_reset(struct output *o, const char *token)
{
    char data[64];
    const char *dot = strchr(token, '.');
    int n = snprintf(data, sizeof(data), "{\"attempt\": %s}", dot ? dot + 1 : "0");
    char id[JOB_TOKEN_TEXT + 8];

    snprintf(o->token, sizeof(o->token), "%s", token);
    o->offset = 0;
    snprintf(id, sizeof(id), "%s-0", *token ? token : "0.0");
    sse_event(&o->sse, "reset", id, data, (size_t)n);
}

static void send_end(struct output *o, const struct core_view *v)
{
    char data[200];
    int n = snprintf(data, sizeof(data),
                     "{\"id\": %" PRIu64 ", \"state\": \"finished\", \"verdict\": \"%s\", "
                     "\"output_bytes\": %" PRIu64 "}",
                     o->id, v->verdict, v->end - v->begin);

    o->said_end = true;
    sse_event(&o->sse, "end", NULL, data, (size_t)n);
}

static void piece_came(void *arg, const struct core_answer *a)
{
    struct output *o = arg;
    struct sse_text *t;

    o->reading = o->sse.busy = false;
    if (o->stopped) {
        output_free(o);
    } else if (a->status != CORE_OK ||
               (o->reader && core_read_size(o->reader) > 0 && a->bytes && a->len == 0)) {
        reply_stream_fail(&o->sse.stream); /* the client comes again with its place */
    } else if (!a->bytes) {                /* it is open */
        struct core_view v = core_watch_view(&o->watcher);

        o->left = v.end - v.begin - o->offset;
        core_read_part(o->reader, v.begin + o->offset, o->left, PIECE);
        sse_poke(&o->sse);
    } else {
        t = encode(o, a->bytes, a->len);
        o->offset += a->len;
        o->left -= a->len;
        sse_send(&o->sse, t);
    }
}

static void pump_over(struct output *o, const struct core_view *v)
{
    if (o->said_end) {
        sse_end(&o->sse);
    } else if (v->begin + o->offset >= v->end || !*v->feedback) {
        send_end(o, v);
    } else if (!o->reader) {
        o->reading = o->sse.busy = true;
        o->reader = core_read_open(o->core, v->feedback, piece_came, o);
    } else {
        o->reading = o->sse.busy = true;
        core_read_next(o->reader, piece_came, o);
    }
}

static void output_pump(struct sse *s)
{
    struct output *o = (struct output *)s;
    struct core_view v = core_watch_view(&o->watcher);

    if (o->reading || (v.state != WATCH_LIVE && v.state != WATCH_OVER))
        return;
    if (!o->placed && (*v.token || v.state == WATCH_OVER)) {
        o->placed = true;
        snprintf(o->token, sizeof(o->token), "%s", v.token);
    }
    if (o->placed && strcmp(o->token, v.token) != 0 && (*v.token || v.state == WATCH_OVER))
        send_reset(o, v.token);
    else if (v.state == WATCH_OVER)
        pump_over(o, &v);
    else if (strcmp(o->token, v.token) == 0 && o->offset < v.len)
        send_live(o, &v);
}

static void output_news(void *arg)
{
    struct output *o = arg;
    struct core_view v = core_watch_view(&o->watcher);
    struct call *c = o->call;

    if (!c) {
        sse_poke(&o->sse);
        return;
    }
    switch (v.state) {
    case WATCH_LOOKING:
        return;
    case WATCH_NONE:
        problem(c, 404, "not-found", "There is no job %" PRIu64, o->id);
        break;
    case WATCH_FAILED:
        problem(c, 503, "unavailable", "%s", v.why);
        break;
    default:
        o->call = NULL;
        sse_begin(&o->sse, c);
        return;
    }
    output_free(o);
}

/* "GENERATION.ATTEMPT-OFFSET" */
static bool take_place(const char *text, struct output *o)
{
    const char *dash = strchr(text, '-');
    struct job_token t;
    char *end;

    if (!dash || job_token_parse(text, (size_t)(dash - text), &t) < 0 || dash[1] < '0' ||
        dash[1] > '9' || strlen(dash) > 14)
        return false;
    job_token_format(t, o->token);
    o->offset = strtoull(dash + 1, &end, 10);
    o->placed = true;
    return *end == '\0' && o->offset <= OFFSET_MAX;
}

void v1_output_stream(struct call *c)
{
    struct output *o;
    uint64_t id, offset;
    char text[80];

    if (!v1_id(c, &id) || !v1_query_number(c, "offset", 0, OFFSET_MAX, 0, &offset) || !sse_room(c))
        return;
    o = xcalloc(1, sizeof(*o));
    o->offset = offset;
    if (last_event_id(c, text, sizeof(text)) && !take_place(text, o)) {
        free(o);
        problem(c, 400, "bad-parameter", "Last-Event-ID is none that this stream gave out");
        return;
    }
    o->id = id;
    o->call = c;
    o->core = c->loop->core;
    o->sse.pump = output_pump;
    o->sse.stop = output_stop;
    o->watcher = (struct core_watcher){.news = output_news, .arg = o};
    core_watch(o->core, c->tenant, id, &o->watcher);
    output_news(o); /* what is known already */
}

/* ---- Events ---- */

struct listening {
    struct sse sse; /* first */
    struct core_listener listener;
    struct call *call; /* until the answer has begun */
    struct core *core;
    struct hloop *hloop;
    char *tenant;
    uint64_t job; /* 0: all */
    char last[48];
    struct buf pending; /* whole events, in SSE's form */
    bool asking, ask_again, stopped;
    /* What came is not taken but read from Redis: because a look failed, or the client has to take
     * first what is pending. */
    bool behind;
    void *again;        /* timer, while it waits to look again */
    bool snapped, over; /* one job's; snapped: events go on from the last snapshot */
    struct buf shown;   /* its last snapshot */
};

static void listening_free(struct listening *l)
{
    core_unlisten(&l->listener);
    if (l->again)
        hloop_timer_stop(l->hloop, l->again);
    buf_free(&l->pending);
    buf_free(&l->shown);
    free(l->tenant);
    free(l);
}

static void listening_stop(struct sse *s)
{
    struct listening *l = (struct listening *)s;

    l->stopped = true;
    core_unlisten(&l->listener);
    if (!l->asking)
        listening_free(l);
}

static void add_event(struct listening *l, const char *name, const char *id, const char *data)
{
    struct buf b = BUF_INIT(SIZE_MAX);

    buf_printf(&b, "event: %s\n", name);
    if (id)
        buf_printf(&b, "id: %s\n", id);
    buf_printf(&b, "data: %s\n\n", data);
    buf_append(&l->pending, b.data, b.len);
    buf_free(&b);
}

static void render_event(const struct core_event *e, struct buf *b)
{
    buf_appends(b, "{");
    if (strcmp(e->kind, "job") == 0) {
        v1_int(b, "id", (int64_t)e->job);
        v1_text(b, "state", v1_state_name(*e->state));
        v1_int(b, "attempt", e->attempt);
        v1_text_or_null(b, "verdict", e->verdict);
        v1_text(b, "step", e->step);
    } else {
        v1_text(b, strcmp(e->kind, "vmm") == 0 ? "vmm" : "name", e->name);
        v1_text(b, "what", e->what);
    }
    v1_int(b, "at_ms", e->at_ms);
    buf_appends(b, "}");
}

/* Is it for this listener? An image is by the name that its tenant says. */
static bool is_for(const struct listening *l, struct core_event *e)
{
    if (strcmp(e->kind, "job") == 0)
        return strcmp(e->tenant, l->tenant) == 0 && (!l->job || e->job == l->job);
    if (strcmp(e->kind, "image") == 0)
        e->name = image_name_shown(e->name, l->tenant);
    return l->job == 0 && e->name;
}

static void take_event(struct listening *l, const struct core_event *event)
{
    struct buf b = BUF_INIT(SIZE_MAX);
    struct core_event own = *event, *e = &own;

    snprintf(l->last, sizeof(l->last), "%s", e->id);
    if (!is_for(l, e))
        return;
    render_event(e, &b);
    add_event(l, e->kind, l->job ? NULL : e->id, b.data);
    buf_free(&b);
}

static void catch_up(struct listening *l);
static void look_at_job(struct listening *l);

static void look_now(struct listening *l)
{
    if (l->job)
        look_at_job(l);
    else
        catch_up(l);
}

static void events_pump(struct sse *s)
{
    struct listening *l = (struct listening *)s;

    if (l->pending.len) {
        struct sse_text *t = sse_text_new(l->pending.data, l->pending.len);

        buf_clear(&l->pending);
        sse_send(s, t);
    } else if (l->over) {
        sse_end(s);
    } else if (l->behind && !l->asking && !l->again) {
        look_now(l);
    }
}

static void look_again(void *arg)
{
    struct listening *l = arg;

    l->again = NULL;
    look_now(l);
}

/* Redis is away, or has too much to do. */
static void look_later(struct listening *l)
{
    l->behind = true;
    if (!l->again)
        l->again = hloop_timer_start(l->hloop, AGAIN_MS, look_again, l);
}

/* Begins the answer, or says why not. */
static void begin_or_fail(struct listening *l, const struct core_answer *a)
{
    struct call *c = l->call;

    l->call = NULL;
    if (a->status == CORE_OK) {
        sse_begin(&l->sse, c);
        return;
    }
    problem_core(c, a, v1_what("job", l->job ? c->param[0] : ""));
    listening_free(l);
}

static void caught_up(void *arg, const struct core_answer *a)
{
    struct listening *l = arg;
    struct core_event e;
    size_t got;
    bool lost;

    l->asking = false;
    if (l->stopped || (l->call && a->status != CORE_OK)) {
        if (l->stopped)
            listening_free(l);
        else
            begin_or_fail(l, a);
        return;
    }
    if (a->status != CORE_OK) {
        look_later(l);
        return;
    }
    got = a->tree->elements - 3;
    lost = *core_text(a->tree, 2) == '1';
    if (!*l->last || (lost && got == 0))
        snprintf(l->last, sizeof(l->last), "%s", core_text(a->tree, 1));
    if (lost) /* with no event behind it, the place to go on from is its own */
        add_event(l, "gap", got == 0 ? l->last : NULL, "{}");
    for (size_t i = 3; i < a->tree->elements; i++) {
        char *text = xstrdup(core_text(a->tree, i));

        if (core_event_parse(text, &e))
            take_event(l, &e);
        free(text);
    }
    l->behind = got > 0 || l->ask_again;
    if (l->behind && !l->pending.len) /* else when the client has taken it */
        catch_up(l);
    if (l->call)
        begin_or_fail(l, a);
    else
        sse_poke(&l->sse);
}

static void catch_up(struct listening *l)
{
    const char *argv[] = {l->last, CATCH_UP};

    if (l->asking) {
        l->ask_again = true;
        return;
    }
    l->asking = true;
    l->ask_again = false;
    core_ask(l->core, ASK_EVENTS, 2, argv, caught_up, l);
}

static void on_event(void *arg, const struct core_event *e)
{
    struct listening *l = arg;

    if (l->asking) { /* its answer may be from before this one */
        l->ask_again = true;
        return;
    }
    if (l->pending.len > PENDING_MAX)
        l->behind = true;
    if (l->behind)
        return;
    take_event(l, e);
    if (!l->call)
        sse_poke(&l->sse);
}

static void on_look(void *arg)
{
    struct listening *l = arg;

    if (l->pending.len > PENDING_MAX)
        l->behind = true;
    else
        catch_up(l);
}

static struct listening *listening_new(struct call *c)
{
    struct listening *l = xcalloc(1, sizeof(*l));

    l->call = c;
    l->core = c->loop->core;
    l->hloop = c->loop->hloop;
    l->tenant = xstrdup(c->tenant);
    buf_init(&l->pending, SIZE_MAX);
    buf_init(&l->shown, SIZE_MAX);
    l->sse.pump = events_pump;
    l->sse.stop = listening_stop;
    return l;
}

/* "MS-N", as Redis's streams have it */
static bool is_stream_id(const char *s)
{
    size_t ms = strspn(s, "0123456789"), n = s[ms] == '-' ? strspn(s + ms + 1, "0123456789") : 0;

    return ms > 0 && ms < 16 && n > 0 && n < 16 && s[ms + 1 + n] == '\0';
}

void v1_events(struct call *c)
{
    struct listening *l;
    char text[48] = "";

    if (!sse_room(c))
        return;
    if (last_event_id(c, text, sizeof(text)) && !is_stream_id(text)) {
        problem(c, 400, "bad-parameter", "Last-Event-ID is none that this stream gave out");
        return;
    }
    l = listening_new(c);
    snprintf(l->last, sizeof(l->last), "%s", text);
    l->listener = (struct core_listener){.event = on_event, .look = on_look, .arg = l};
    core_listen(l->core, &l->listener);
    catch_up(l);
}

/* ---- Events of one job ---- */

static void job_looked(void *arg, const struct core_answer *a)
{
    struct listening *l = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    l->asking = false;
    if (l->stopped || (l->call && a->status != CORE_OK)) {
        if (l->stopped)
            listening_free(l);
        else
            begin_or_fail(l, a);
        return;
    }
    if (a->status == CORE_NOT_FOUND)
        l->over = true; /* it was forgotten meanwhile */
    if (a->status == CORE_OK) {
        v1_render_job(a->job, &b);
        if (!l->snapped && (l->shown.len != b.len || memcmp(l->shown.data, b.data, b.len) != 0)) {
            add_event(l, "snapshot", NULL, b.data);
            buf_clear(&l->shown);
            buf_append(&l->shown, b.data, b.len);
        }
        l->behind = false;
        /* an event that came meanwhile was not taken, and this answer may be from before it */
        l->snapped = !l->ask_again;
        l->over = a->job->state == 'f';
        if (l->over)
            add_event(l, "end", NULL, b.data);
        buf_free(&b);
    } else if (!l->over) {
        look_later(l);
    }
    if (l->ask_again && !l->over && !l->again)
        look_at_job(l);
    if (l->call)
        begin_or_fail(l, a);
    else
        sse_poke(&l->sse);
}

static void look_at_job(struct listening *l)
{
    if (l->over)
        return;
    if (l->asking) {
        l->ask_again = true;
        return;
    }
    if (l->pending.len > PENDING_MAX) { /* when the client has taken it */
        l->behind = true;
        return;
    }
    l->asking = true;
    l->ask_again = false;
    core_get(l->core, l->tenant, l->job, job_looked, l);
}

static void on_job_event(void *arg, const struct core_event *e)
{
    struct listening *l = arg;

    if (strcmp(e->kind, "job") != 0 || e->job != l->job || l->over)
        return;
    if (l->behind || l->pending.len > PENDING_MAX)
        l->snapped = false; /* a snapshot makes up for it */
    if (l->snapped)
        take_event(l, e);
    if ((*e->state == 'f' || !l->snapped) && !l->again)
        look_at_job(l);
    if (!l->call)
        sse_poke(&l->sse);
}

/* Some may have been missed: the job as it is makes up for them. */
static void on_job_look(void *arg)
{
    struct listening *l = arg;

    l->snapped = false;
    look_at_job(l);
}

void v1_job_events(struct call *c)
{
    struct listening *l;
    uint64_t id;

    if (!v1_id(c, &id) || !sse_room(c))
        return;
    l = listening_new(c);
    l->job = id;
    l->listener = (struct core_listener){.event = on_job_event, .look = on_job_look, .arg = l};
    core_listen(l->core, &l->listener);
    look_at_job(l);
}
