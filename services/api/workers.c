#include "services/api/workers.h"

#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t more;
    STAILQ_HEAD(, work) waiting;
    unsigned waiting_ct, max_waiting;
    bool stopping;
    unsigned thread_ct;
    pthread_t threads[];
};

static void *worker(void *arg)
{
    struct workers *ws = arg;
    struct work *w;

    pthread_mutex_lock(&ws->lock);
    for (;;) {
        while (STAILQ_EMPTY(&ws->waiting) && !ws->stopping)
            pthread_cond_wait(&ws->more, &ws->lock);
        w = STAILQ_FIRST(&ws->waiting);
        if (!w)
            break;
        STAILQ_REMOVE_HEAD(&ws->waiting, link);
        ws->waiting_ct--;
        pthread_mutex_unlock(&ws->lock);
        w->run(w);
        h2o_multithread_send_message(&w->gate->receiver, &w->message);
        pthread_mutex_lock(&ws->lock);
    }
    pthread_mutex_unlock(&ws->lock);
    return NULL;
}

struct workers *workers_start(unsigned threads, unsigned max_waiting)
{
    struct workers *ws = xcalloc(1, sizeof(*ws) + threads * sizeof(ws->threads[0]));

    pthread_mutex_init(&ws->lock, NULL);
    pthread_cond_init(&ws->more, NULL);
    STAILQ_INIT(&ws->waiting);
    ws->max_waiting = max_waiting;
    while (ws->thread_ct < threads &&
           pthread_create(&ws->threads[ws->thread_ct], NULL, worker, ws) == 0)
        ws->thread_ct++;
    if (ws->thread_ct == 0) {
        free(ws);
        return NULL;
    }
    return ws;
}

static void gate_receive(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    (void)receiver;
    while (!h2o_linklist_is_empty(messages)) {
        struct work *w = H2O_STRUCT_FROM_MEMBER(struct work, message.link, messages->next);

        h2o_linklist_unlink(&w->message.link);
        w->done(w);
    }
}

void work_gate_open(struct work_gate *g, h2o_multithread_queue_t *queue)
{
    h2o_multithread_register_receiver(queue, &g->receiver, gate_receive);
}

int workers_run(struct workers *ws, struct work_gate *g, struct work *w)
{
    int ret = -EAGAIN;

    w->message = (h2o_multithread_message_t){{NULL}};
    w->gate = g;
    pthread_mutex_lock(&ws->lock);
    if (ws->waiting_ct < ws->max_waiting) {
        STAILQ_INSERT_TAIL(&ws->waiting, w, link);
        ws->waiting_ct++;
        pthread_cond_signal(&ws->more);
        ret = 0;
    }
    pthread_mutex_unlock(&ws->lock);
    return ret;
}

void workers_stop(struct workers *ws)
{
    pthread_mutex_lock(&ws->lock);
    ws->stopping = true;
    pthread_cond_broadcast(&ws->more);
    pthread_mutex_unlock(&ws->lock);
    for (unsigned i = 0; i < ws->thread_ct; i++)
        pthread_join(ws->threads[i], NULL);
    pthread_cond_destroy(&ws->more);
    pthread_mutex_destroy(&ws->lock);
    free(ws);
}
