#include "services/dispatcher/pools.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/scripts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGETS_MAX 256

/* In the order that names give: which images are left out beyond the bound must not change with
 * each pass. */
static int by_image(const void *a, const void *b)
{
    return strcmp(((const struct pool_target *)a)->image, ((const struct pool_target *)b)->image);
}

size_t pools_targets(const struct world *w, int64_t now, int64_t pool_size, int64_t idle_ms,
                     struct pool_target *out, size_t max)
{
    size_t ct = 0, most = w->wishes.ct + w->used.ct;
    struct pool_target *all = xcalloc(most + 1, sizeof(*all));

    for (size_t i = 0; i < w->wishes.ct; i++) {
        unsigned n = 0, cores = 0, memory = 0;
        sscanf(w->wishes.list[i].value, "%u %u %u", &n, &cores, &memory);
        if (n > 0)
            all[ct++] =
                (struct pool_target){w->wishes.list[i].key, n > 100000 ? 100000 : n, cores, memory};
    }
    for (size_t i = 0; i < w->used.ct && pool_size > 0; i++) {
        const struct pair *u = &w->used.list[i];
        if (now - strtoll(u->value, NULL, 10) < idle_ms && !pairs_get(&w->wishes, u->key))
            all[ct++] = (struct pool_target){.image = u->key, .want = (unsigned)pool_size};
    }
    qsort(all, ct, sizeof(*all), by_image);
    if (ct > max) {
        log_event(LOG_WARN_, "pools.too_many", "images", LOG_NUM(ct), "most", LOG_NUM(max), NULL);
        ct = max;
    }
    memcpy(out, all, ct * sizeof(*all));
    free(all);
    return ct;
}

static bool keeps(const struct vmm_view *v, const char *image)
{
    return v->up && !v->drain && pairs_get(&v->images, image);
}

void pools_split(const struct world *w, const struct pool_target *t, unsigned *shares)
{
    unsigned ct = 0, rank = 0;

    for (size_t v = 0; v < w->vmm_ct; v++) {
        shares[v] = keeps(w->vmms[v], t->image);
        ct += shares[v];
    }
    for (size_t v = 0; v < w->vmm_ct; v++)
        if (shares[v])
            shares[v] = t->want / ct + (rank++ < t->want % ct);
}

static int tell(struct dispatcher *d, const struct world *w, size_t v, const struct pool_target *t,
                size_t ct, const unsigned *shares, struct error *err)
{
    const struct vmm_view *vmm = w->vmms[v];
    const char *argv[2 + 2 * TARGETS_MAX];
    char text[TARGETS_MAX][48];
    cleanup_reply redisReply *r = NULL;
    bool same = true;
    int argc = 2;

    argv[1] = vmm->name;
    for (size_t i = 0; i < ct; i++) {
        unsigned share = shares[i * w->vmm_ct + v];
        const char *now = pairs_get(&vmm->wants, t[i].image);

        bool shaped = t[i].cores_milli > 0 || t[i].memory_mb > 0;

        /* a shape holds for the image's jobs wherever they run, without a warm machine too */
        if (share == 0 && !(shaped && keeps(vmm, t[i].image)))
            continue;
        if (shaped)
            snprintf(text[i], sizeof(text[i]), "%u %u %u", share, t[i].cores_milli, t[i].memory_mb);
        else
            snprintf(text[i], sizeof(text[i]), "%u", share);
        same = same && now && strcmp(now, text[i]) == 0;
        argv[argc++] = t[i].image;
        argv[argc++] = text[i];
    }
    if (same && vmm->wants.ct == (size_t)(argc - 2) / 2)
        return 0;
    return dispatcher_ask(d, &script_want, argc, argv, NULL, &r, err);
}

int pools_pass(struct dispatcher *d, const struct world *w, struct error *err)
{
    struct pool_target targets[TARGETS_MAX];
    size_t ct = pools_targets(w, clock_wall_ms(), d->cfg->pool_size, d->cfg->pool_idle_s * 1000,
                              targets, TARGETS_MAX);
    cleanup_free unsigned *shares = xcalloc(ct * w->vmm_ct + 1, sizeof(*shares));
    int rc = 0;

    for (size_t i = 0; i < ct; i++)
        pools_split(w, &targets[i], shares + i * w->vmm_ct);
    for (size_t v = 0; v < w->vmm_ct && rc >= 0; v++)
        if (w->vmms[v]->up)
            rc = tell(d, w, v, targets, ct, shares, err);
    return rc;
}
