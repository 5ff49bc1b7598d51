/* What happens, for whoever listens on this loop: one subscription, each message taken apart once.
 */

#include "services/api/core_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct feed {
    struct core *core;
    struct hub_listener hub; /* while anybody listens */
    TAILQ_HEAD(, core_listener) listeners;
    struct core_listener *next; /* of a walk that is under way */
};

bool core_event_parse(char *text, struct core_event *ret)
{
    char *save = NULL;
    struct core_event e = {.id = strtok_r(text, " ", &save), .kind = strtok_r(NULL, " ", &save)};
    const char *word[7];

    if (!e.id || !e.kind)
        return false;
    if (strcmp(e.kind, "job") != 0) {
        e.what = strtok_r(NULL, " ", &save);
        word[0] = strtok_r(NULL, " ", &save);
        e.name = save;
        if (!e.what || !word[0] || !e.name)
            return false;
        e.at_ms = strtoll(word[0], NULL, 10);
        *ret = e;
        return true;
    }
    for (int i = 0; i < 6; i++) {
        word[i] = strtok_r(NULL, " ", &save);
        if (!word[i])
            return false;
    }
    e.tenant = word[0];
    e.job = strtoull(word[1], NULL, 10);
    e.state = word[2];
    e.attempt = (unsigned)strtoul(word[3], NULL, 10);
    e.verdict = strcmp(word[4], "-") == 0 ? "" : word[4];
    e.at_ms = strtoll(word[5], NULL, 10);
    e.step = save ? save : "";
    *ret = e;
    return true;
}

static void on_message(void *arg, const char *data, size_t len)
{
    struct feed *f = arg;
    char *text = xstrndup(data, len);
    struct core_event e;

    if (core_event_parse(text, &e)) {
        for (struct core_listener *l = TAILQ_FIRST(&f->listeners); l; l = f->next) {
            f->next = TAILQ_NEXT(l, link);
            l->event(l->arg, &e);
        }
    }
    free(text);
}

static void on_look(void *arg)
{
    struct feed *f = arg;

    for (struct core_listener *l = TAILQ_FIRST(&f->listeners); l; l = f->next) {
        f->next = TAILQ_NEXT(l, link);
        l->look(l->arg);
    }
}

void core_feed_start(struct core *c)
{
    struct feed *f = xcalloc(1, sizeof(*f));

    f->core = c;
    f->hub = (struct hub_listener){.message = on_message, .look = on_look, .arg = f};
    TAILQ_INIT(&f->listeners);
    c->feed = f;
}

void core_listen(struct core *c, struct core_listener *l)
{
    struct feed *f = c->feed;

    if (TAILQ_EMPTY(&f->listeners))
        hub_listen(c->hub, &f->hub, "ev");
    l->feed = f;
    TAILQ_INSERT_TAIL(&f->listeners, l, link);
}

void core_unlisten(struct core_listener *l)
{
    struct feed *f = l->feed;

    if (!f)
        return;
    if (f->next == l)
        f->next = TAILQ_NEXT(l, link);
    TAILQ_REMOVE(&f->listeners, l, link);
    l->feed = NULL;
    if (TAILQ_EMPTY(&f->listeners))
        hub_unlisten(f->core->hub, &f->hub);
}
