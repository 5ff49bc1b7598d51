#include "output.h"

#include "base/clock.h"
#include "base/mem.h"
#include "scripts.h"

#include <stdio.h>
#include <string.h>

#define COALESCE_MS    20
#define COALESCE_BYTES 16384
#define MESSAGE_MAX    65536
#define RETRY_MS       500
#define FRAME_SLACK                                                                                \
    1024 /* odd limits are halved by both sides; no byte is to be lost to rounding */

/* Shared with the message under way, which may outlive the output. */
struct live {
    struct attempt *a;
    pthread_mutex_t lock;
    unsigned refs;
    size_t acked; /* bytes that Redis has */
    bool under_way;
    bool failed; /* the last message was refused or lost */
};

static void live_unref(struct live *l)
{
    pthread_mutex_lock(&l->lock);
    bool last = --l->refs == 0;
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    attempt_unref(l->a);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void output_init(struct output *o, struct attempt *a, uint64_t output_bytes, uint64_t watch_bytes)
{
    *o = (struct output){.a = a, .flush_at = CLOCK_NEVER};
    buf_init(&o->data, (size_t)output_bytes + FRAME_SLACK);
    o->live_max = (size_t)(watch_bytes < output_bytes / 2 ? watch_bytes : output_bytes / 2);
    o->live = xcalloc(1, sizeof(*o->live));
    o->live->a = attempt_ref(a);
    o->live->refs = 1;
    pthread_mutex_init(&o->live->lock, NULL);
}

void output_done(struct output *o)
{
    buf_free(&o->data);
    if (o->live)
        live_unref(o->live);
    o->live = NULL;
}

void output_add(struct output *o, const void *data, size_t len)
{
    /* The autodriver keeps to output_bytes; one that does not is cut here. */
    if (len > o->data.max - o->data.len)
        len = o->data.max - o->data.len;
    size_t before = o->data.len;
    if (len == 0 || buf_append(&o->data, data, len) < 0)
        return;
    if (before < o->live_max && o->flush_at == CLOCK_NEVER)
        o->flush_at = clock_mono_ms() + COALESCE_MS;
}

static void on_sent(void *arg, const redisReply *reply)
{
    struct live *l = arg;
    const char *word = reply_word(reply);
    pthread_mutex_lock(&l->lock);
    l->under_way = false;
    l->failed = strcmp(word, "ok") != 0;
    if (!l->failed)
        l->acked = strtoul(reply_str(reply, 1), NULL, 10);
    pthread_mutex_unlock(&l->lock);
    if (strcmp(word, "fenced") == 0)
        attempt_stop(l->a, KILL_FENCED);
    live_unref(l);
}

void output_flush(struct output *o)
{
    int64_t now = clock_mono_ms();
    size_t have = o->data.len < o->live_max ? o->data.len : o->live_max;
    struct live *l = o->live;
    pthread_mutex_lock(&l->lock);
    size_t at = l->acked, len = have > at ? have - at : 0;
    bool busy = l->under_way, failed = l->failed;
    if (len == 0) {
        pthread_mutex_unlock(&l->lock);
        o->flush_at = CLOCK_NEVER;
        return;
    }
    if (busy || (now < o->flush_at && (failed || len < COALESCE_BYTES))) {
        if (now >= o->flush_at) /* its answer is not here yet */
            o->flush_at = now + COALESCE_MS;
        pthread_mutex_unlock(&l->lock);
        return;
    }
    l->under_way = true;
    l->refs++;
    pthread_mutex_unlock(&l->lock);
    if (len > MESSAGE_MAX)
        len = MESSAGE_MAX;
    char offset[24];
    snprintf(offset, sizeof(offset), "%zu", at);
    const char *argv[] = {o->a->id, o->a->token, offset, o->data.data + at};
    const size_t argvlen[] = {strlen(o->a->id), strlen(o->a->token), strlen(offset), len};
    /* After a failure, and while an answer is due, look again later; a fresh one goes at the next
     * turn. */
    o->flush_at = now + (failed ? RETRY_MS : COALESCE_MS);
    if (rlink_send(o->a->v->link, &script_output, 4, argv, argvlen, on_sent, l) < 0) {
        pthread_mutex_lock(&l->lock);
        l->under_way = false;
        l->failed = true;
        pthread_mutex_unlock(&l->lock);
        live_unref(l);
    }
}
