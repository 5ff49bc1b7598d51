#include "docker_private.h"

#include "../sync.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The bound on the disk where the engine's storage has no quotas: one thread asks the engine again
 * and again what each running container has written (SizeRw, which walks its top layer), and tells
 * the autodriver of one that is over its limit to end, so that the job's output still comes out.
 * One that does not end is killed the next time.
 *
 * Weaker than a quota, as docs/security.md says: a job can write as much as the disk takes in the
 * time between two looks, and a file that is open but has no name is not counted. There is no event
 * to wait for; a sample a second is the timer of invariant 8. */

#define SAMPLE_MS     1000
#define SAMPLE_MAX_MS 10000
#define SAMPLE_SHARE  5 /* between two looks at a machine passes so many times what one took */
#define ASK_MS        10000

struct disk_entry {
    struct disk_entry *next;
    char id[80];
    uint64_t limit;
    bool active; /* has a job; a warm machine writes nothing */
    bool over;   /* found over its limit */
    int64_t due; /* mono */
    unsigned kills;
};

struct disk_watch {
    struct engine *engine;
    pthread_t thread;
    int stop_fd; /* eventfd, signalled once */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    struct disk_entry *entries;
};

/* What is written by now; negative when the engine does not tell (a container that has gone). */
static int64_t written(struct disk_watch *w, const char *id)
{
    cleanup_free char *path = xasprintf("/containers/%s/json?size=1", id);
    json_t *doc = NULL;

    if (engine_get(w->engine, path, clock_mono_ms() + ASK_MS, w->stop_fd, &doc, NULL) < 0)
        return -1;
    const json_t *size = json_object_get(doc, "SizeRw");
    int64_t bytes = json_is_integer(size) ? (int64_t)json_integer_value(size) : -1;
    json_decref(doc);
    return bytes;
}

static void end_machine(struct disk_watch *w, const char *id, const char *signal)
{
    cleanup_free char *path = xasprintf("/containers/%s/kill?signal=%s", id, signal);
    struct engine_call c = {.method = "POST",
                            .path = path,
                            .deadline = clock_mono_ms() + ASK_MS,
                            .cancel_fd = w->stop_fd};
    struct engine_reply r;

    if (engine_call(w->engine, &c, &r, NULL) == 0)
        engine_reply_done(&r); /* one that has ended by itself is as good */
}

static struct disk_entry *find(struct disk_watch *w, const char *id)
{
    struct disk_entry *e = w->entries;

    while (e && strcmp(e->id, id) != 0)
        e = e->next;
    return e;
}

/* Looks at one machine, without the lock while the engine is asked. */
static void look_at(struct disk_watch *w, const struct disk_entry *at)
{
    char id[80];
    const char *signal = NULL;
    int64_t begun = clock_mono_ms();

    memcpy(id, at->id, sizeof(id));
    pthread_mutex_unlock(&w->lock);
    int64_t bytes = written(w, id);
    int64_t now = clock_mono_ms();
    int64_t pause = (now - begun) * SAMPLE_SHARE;
    pthread_mutex_lock(&w->lock);
    struct disk_entry *e = find(w, id);
    if (!e)
        return;
    pause = pause < SAMPLE_MS ? SAMPLE_MS : pause;
    e->due = now + (pause > SAMPLE_MAX_MS ? SAMPLE_MAX_MS : pause);
    if (bytes >= 0 && (uint64_t)bytes > e->limit) {
        e->over = true;
        signal = e->kills++ == 0 ? "SIGTERM" : "SIGKILL";
    }
    pthread_mutex_unlock(&w->lock);
    if (signal) {
        log_event(LOG_INFO_, "docker.disk_over", "container", id, "written", LOG_NUM(bytes),
                  "signal", signal, NULL);
        end_machine(w, id, signal);
    }
    pthread_mutex_lock(&w->lock);
}

static void *watch_main(void *arg)
{
    struct disk_watch *w = arg;

    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        struct disk_entry *first = NULL;
        for (struct disk_entry *e = w->entries; e; e = e->next)
            if (e->active && (!first || e->due < first->due))
                first = e;
        if (!first)
            pthread_cond_wait(&w->changed, &w->lock);
        else if (first->due > clock_mono_ms())
            cond_wait_until(&w->changed, &w->lock, first->due);
        else
            look_at(w, first);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct disk_watch *disk_watch_new(struct engine *engine)
{
    struct disk_watch *w = xcalloc(1, sizeof(*w));

    w->engine = engine;
    w->stop_fd = event_new();
    pthread_mutex_init(&w->lock, NULL);
    cond_init(&w->changed);
    w->thread = thread_start(watch_main, w);
    return w;
}

void disk_watch_free(struct disk_watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    event_signal(w->stop_fd);
    pthread_join(w->thread, NULL);
    while (w->entries) {
        struct disk_entry *e = w->entries;
        w->entries = e->next;
        free(e);
    }
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    close(w->stop_fd);
    free(w);
}

void disk_watch_add(struct disk_watch *w, const char *id, uint64_t limit)
{
    struct disk_entry *e = xcalloc(1, sizeof(*e));

    snprintf(e->id, sizeof(e->id), "%s", id);
    e->limit = limit;
    pthread_mutex_lock(&w->lock);
    e->next = w->entries;
    w->entries = e;
    pthread_mutex_unlock(&w->lock);
}

void disk_watch_activate(struct disk_watch *w, const char *id)
{
    pthread_mutex_lock(&w->lock);
    struct disk_entry *e = find(w, id);
    if (e && !e->active) {
        e->active = true;
        e->due = clock_mono_ms() + SAMPLE_MS;
        pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
}

void disk_watch_remove(struct disk_watch *w, const char *id)
{
    pthread_mutex_lock(&w->lock);
    for (struct disk_entry **at = &w->entries; *at; at = &(*at)->next) {
        struct disk_entry *e = *at;
        if (strcmp(e->id, id) != 0)
            continue;
        *at = e->next;
        free(e);
        break;
    }
    pthread_mutex_unlock(&w->lock);
}

bool disk_watch_over(struct disk_watch *w, const char *id)
{
    pthread_mutex_lock(&w->lock);
    const struct disk_entry *e = find(w, id);
    bool over = e && e->over;
    pthread_mutex_unlock(&w->lock);
    return over;
}
