#include "trace.h"

#include "base/clock.h"
#include "base/mem.h"
#include "scripts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LINES_MAX 32 /* an attempt has about eight */
#define ARG_MAX   400

struct line {
    char code[16];
    char at[24];
    char arg[ARG_MAX];
};

struct trace {
    pthread_mutex_t lock;
    struct line lines[LINES_MAX]; /* not sent yet */
    size_t ct;
    char state[2]; /* not sent yet; "" none */
};

/* What is under way; the reply owns it. */
struct parcel {
    struct attempt *a;
    struct line lines[LINES_MAX];
    size_t ct;
    char state[2];
};

struct trace *trace_new(void)
{
    struct trace *t = xcalloc(1, sizeof(*t));
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

void trace_free(struct trace *t)
{
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void trace_add(struct attempt *a, const char *code, const char *fmt, ...)
{
    struct trace *t = a->trace;
    pthread_mutex_lock(&t->lock);
    if (t->ct < LINES_MAX) {
        struct line *l = &t->lines[t->ct++];
        snprintf(l->code, sizeof(l->code), "%s", code);
        snprintf(l->at, sizeof(l->at), "%lld", (long long)clock_wall_ms());
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(l->arg, sizeof(l->arg), fmt, ap);
        va_end(ap);
        l->arg[strcspn(l->arg, "\n|")] = '\0';
    }
    pthread_mutex_unlock(&t->lock);
}

/* Takes all that is not sent; NULL when there is nothing. */
static struct parcel *pack(struct attempt *a)
{
    struct trace *t = a->trace;
    struct parcel *p = NULL;
    pthread_mutex_lock(&t->lock);
    if (t->ct > 0 || t->state[0]) {
        p = xcalloc(1, sizeof(*p));
        p->a = attempt_ref(a);
        memcpy(p->lines, t->lines, t->ct * sizeof(*t->lines));
        p->ct = t->ct;
        memcpy(p->state, t->state, sizeof(p->state));
        t->ct = 0;
        t->state[0] = '\0';
    }
    pthread_mutex_unlock(&t->lock);
    return p;
}

static void parcel_free(struct parcel *p)
{
    attempt_unref(p->a);
    free(p);
}

/* It did not arrive, or nobody knows: in front of what came since. A line that did arrive stands
 * twice. */
static void unpack(struct parcel *p)
{
    struct trace *t = p->a->trace;
    pthread_mutex_lock(&t->lock);
    size_t keep = t->ct;
    if (keep > LINES_MAX - p->ct)
        keep = LINES_MAX - p->ct;
    memmove(t->lines + p->ct, t->lines, keep * sizeof(*t->lines));
    memcpy(t->lines, p->lines, p->ct * sizeof(*t->lines));
    t->ct = p->ct + keep;
    if (!t->state[0])
        memcpy(t->state, p->state, sizeof(t->state));
    pthread_mutex_unlock(&t->lock);
    parcel_free(p);
}

static int fill(const struct parcel *p, const char **argv)
{
    int argc = 0;
    argv[argc++] = p->a->id;
    argv[argc++] = p->a->token;
    argv[argc++] = p->state;
    for (size_t i = 0; i < p->ct; i++) {
        argv[argc++] = p->lines[i].code;
        argv[argc++] = p->lines[i].at;
        argv[argc++] = p->lines[i].arg;
    }
    return argc;
}

#define ARGV_MAX (3 + 3 * LINES_MAX)

static void on_answer(struct parcel *p, const redisReply *reply)
{
    const char *word = reply_word(reply);
    if (strcmp(word, "ok") == 0) {
        parcel_free(p);
    } else if (strcmp(word, "fenced") == 0) {
        attempt_stop(p->a, KILL_FENCED);
        parcel_free(p);
    } else {
        unpack(p);
    }
}

static void on_sent(void *arg, const redisReply *reply)
{
    on_answer(arg, reply);
}

void trace_send(struct attempt *a, const char *state)
{
    if (state) {
        pthread_mutex_lock(&a->trace->lock);
        snprintf(a->trace->state, sizeof(a->trace->state), "%s", state);
        pthread_mutex_unlock(&a->trace->lock);
    }
    struct parcel *p = pack(a);
    if (!p)
        return;
    const char *argv[ARGV_MAX];
    int argc = fill(p, argv);
    if (rlink_send(a->v->link, &script_step, argc, argv, NULL, on_sent, p) < 0)
        unpack(p);
}

int trace_settle(struct attempt *a, struct error *err)
{
    struct parcel *p = pack(a);
    if (!p)
        return 0;
    const char *argv[ARGV_MAX];
    int argc = fill(p, argv);
    cleanup_reply redisReply *r = NULL;
    int rc = rlink_eval(a->v->link, &script_step, argc, argv, NULL, &r, err);
    on_answer(p, r);
    return rc;
}
