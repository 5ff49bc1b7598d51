#include "fleet.h"

#include "base/mem.h"
#include "pool.h"
#include "scripts.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define IDS_AHEAD 16

struct member {
    struct member *next;
    uint32_t id;
    enum fleet_role role;
    char *image;
    char name[160];
};

struct fleet {
    const struct vmm *v;
    pthread_mutex_t lock;
    struct member *first; /* newest last: the order in which machines were made */
    uint64_t version;
    uint32_t ids[IDS_AHEAD];
    size_t id_ct;
};

struct fleet *fleet_new(const struct vmm *v)
{
    struct fleet *f = xcalloc(1, sizeof(*f));
    f->v = v;
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

void fleet_free(struct fleet *f)
{
    if (!f)
        return;
    while (f->first) {
        struct member *m = f->first;
        f->first = m->next;
        free(m->image);
        free(m);
    }
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static struct member **find(struct fleet *f, const char *name)
{
    struct member **at = &f->first;
    while (*at && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

/* Ids that were fetched and not used when the process ends are merely skipped. */
static int fetch_ids(struct fleet *f, struct error *err)
{
    const char *argv[] = {"16"};
    cleanup_reply redisReply *r = NULL;
    int rc = rlink_eval(f->v->link, &script_machine_id, 1, argv, NULL, &r, err);
    if (rc < 0)
        return err_wrap(err, "asking for machine ids");
    if (strcmp(reply_word(r), "ok") != 0 || r->elements < 2)
        return err_set(err, ERR_BUG, EPROTO, "script machine_id answered \"%s\"", reply_word(r));
    pthread_mutex_lock(&f->lock);
    for (size_t i = r->elements - 1; i >= 1 && f->id_ct < IDS_AHEAD; i--)
        f->ids[f->id_ct++] = (uint32_t)strtoul(reply_str(r, i), NULL, 10);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

int fleet_begin(struct fleet *f, const struct machine_shape *shape, struct machine_spec *ret,
                struct error *err)
{
    pthread_mutex_lock(&f->lock);
    while (true) {
        while (f->id_ct == 0) {
            pthread_mutex_unlock(&f->lock);
            int rc = fetch_ids(f, err);
            if (rc < 0)
                return rc;
            pthread_mutex_lock(&f->lock);
        }
        *ret = (struct machine_spec){.shape = *shape, .id = f->ids[--f->id_ct]};
        machine_name(ret->name, f->v->cfg->prefix, ret->id, shape->image);
        /* Ids wrap; a machine that has outlived 9000 others keeps its name. */
        struct member **at = find(f, ret->name);
        if (*at)
            continue;
        struct member *m = xcalloc(1, sizeof(*m));
        m->id = ret->id;
        m->role = FLEET_MAKING;
        m->image = xstrdup(shape->image);
        memcpy(m->name, ret->name, sizeof(m->name));
        *at = m;
        break;
    }
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static bool shown(enum fleet_role role)
{
    return role == FLEET_WARM || role == FLEET_BUSY;
}

void fleet_role(struct fleet *f, const char *name, enum fleet_role role)
{
    pthread_mutex_lock(&f->lock);
    struct member *m = *find(f, name);
    bool news = m && m->role != role && (shown(m->role) || shown(role));
    f->version += news;
    if (m)
        m->role = role;
    pthread_mutex_unlock(&f->lock);
    if (news)
        pool_poke(f->v->pool, false);
}

void fleet_end(struct fleet *f, const char *name)
{
    pthread_mutex_lock(&f->lock);
    struct member **at = find(f, name);
    struct member *m = *at;
    bool news = m && shown(m->role);
    f->version += news;
    if (m) {
        *at = m->next;
        free(m->image);
        free(m);
    }
    pthread_mutex_unlock(&f->lock);
    if (news)
        pool_poke(f->v->pool, false);
}

bool fleet_knows(struct fleet *f, const char *name)
{
    pthread_mutex_lock(&f->lock);
    bool known = *find(f, name) != NULL;
    pthread_mutex_unlock(&f->lock);
    return known;
}

uint64_t fleet_version(struct fleet *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t version = f->version;
    pthread_mutex_unlock(&f->lock);
    return version;
}

static bool add_ids(const struct fleet *f, const char *image, bool warm_only, struct buf *out)
{
    bool any = false;
    for (const struct member *m = f->first; m; m = m->next) {
        if (strcmp(m->image, image) != 0 || !shown(m->role) || (warm_only && m->role != FLEET_WARM))
            continue;
        buf_printf(out, "%s%u", any ? "," : "", m->id);
        any = true;
    }
    return any;
}

bool fleet_text(struct fleet *f, const char *image, struct buf *out)
{
    pthread_mutex_lock(&f->lock);
    bool any = add_ids(f, image, false, out);
    buf_appends(out, ";");
    add_ids(f, image, true, out);
    pthread_mutex_unlock(&f->lock);
    return any;
}

void fleet_images(struct fleet *f, void (*each)(void *arg, const char *image), void *arg)
{
    pthread_mutex_lock(&f->lock);
    for (const struct member *m = f->first; m; m = m->next) {
        bool first = shown(m->role);
        for (const struct member *o = f->first; first && o != m; o = o->next)
            first = !shown(o->role) || strcmp(o->image, m->image) != 0;
        if (first)
            each(arg, m->image);
    }
    pthread_mutex_unlock(&f->lock);
}
