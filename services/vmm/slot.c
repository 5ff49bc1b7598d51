#include "slot.h"

#include "agent.h"
#include "base/mem.h"
#include "sync.h"

struct slots {
    struct vmm *v;
    pthread_t *threads;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct attempt *first, **last;
    bool stopping;
};

static struct attempt *take(struct slots *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->first && !s->stopping)
        pthread_cond_wait(&s->more, &s->lock);
    struct attempt *a = s->stopping ? NULL : s->first;
    if (a) {
        s->first = a->queue_next;
        if (!s->first)
            s->last = &s->first;
    }
    pthread_mutex_unlock(&s->lock);
    return a;
}

static void *slot_main(void *arg)
{
    struct slots *s = arg;
    struct attempt *a;
    while ((a = take(s))) {
        attempt_run(a);
        attempt_unref(a);
    }
    return NULL;
}

struct slots *slots_new(struct vmm *v)
{
    struct slots *s = xcalloc(1, sizeof(*s));
    s->v = v;
    s->last = &s->first;
    s->threads = xcalloc(v->slot_ct, sizeof(*s->threads));
    pthread_mutex_init(&s->lock, NULL);
    cond_init(&s->more);
    return s;
}

void slots_start(struct slots *s)
{
    for (unsigned i = 0; i < s->v->slot_ct; i++)
        s->threads[i] = thread_start(slot_main, s);
}

void slots_push(struct slots *s, struct attempt *a)
{
    pthread_mutex_lock(&s->lock);
    a->queue_next = NULL;
    *s->last = a;
    s->last = &a->queue_next;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
}

void slots_stop(struct slots *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->more);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->v->slot_ct; i++)
        pthread_join(s->threads[i], NULL);
}

void slots_free(struct slots *s)
{
    while (s->first) {
        struct attempt *a = s->first;
        s->first = a->queue_next;
        attempt_unref(a);
    }
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s->threads);
    free(s);
}
