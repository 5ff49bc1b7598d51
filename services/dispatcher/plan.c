#include "services/dispatcher/plan.h"

#include "base/mem.h"

#include <stdlib.h>

struct row {      /* of a placement */
    size_t next;  /* head */
    bool *fits;   /* by vmm; NULL until asked */
    bool blocked; /* no vmm that fits has room; room only shrinks here */
};

static bool *fits_make(const struct world *w, const struct place_text *t)
{
    bool *fits = xcalloc(w->vmm_ct + 1, sizeof(*fits));

    for (size_t i = 0; i < w->vmm_ct; i++)
        fits[i] = vmm_free(w->vmms[i]) > 0 && vmm_fits(w->vmms[i], t);
    return fits;
}

/* Its index, or vmm_ct. */
static size_t roomiest(const struct world *w, const bool *fits, const unsigned *room)
{
    size_t best = w->vmm_ct;

    for (size_t i = 0; i < w->vmm_ct; i++)
        if (fits[i] && room[i] > 0 && (best == w->vmm_ct || room[i] > room[best]))
            best = i;
    return best;
}

static size_t oldest(const struct world *w, const struct row *rows)
{
    size_t best = w->place_ct;

    for (size_t i = 0; i < w->place_ct; i++) {
        const struct place *p = &w->places[i];

        if (rows[i].blocked || !p->text || rows[i].next >= p->head_ct)
            continue;
        if (best == w->place_ct ||
            p->heads[rows[i].next].score < w->places[best].heads[rows[best].next].score)
            best = i;
    }
    return best;
}

static bool add(struct plan *ret, uint32_t place, const struct vmm_view *v)
{
    for (size_t i = ret->move_ct; i-- > 0;) {
        if (ret->moves[i].place != place)
            continue;
        if (ret->moves[i].vmm == v) {
            ret->moves[i].count++;
            ret->jobs++;
            return true;
        }
    }
    if (ret->move_ct == PLAN_MOVES_MAX)
        return false;
    ret->moves[ret->move_ct++] = (struct move){place, v, 1};
    ret->jobs++;
    return true;
}

static bool any(const unsigned *room, size_t ct)
{
    for (size_t i = 0; i < ct; i++)
        if (room[i] > 0)
            return true;
    return false;
}

void plan_make(const struct world *w, struct plan *ret)
{
    struct row *rows = xcalloc(w->place_ct + 1, sizeof(*rows));
    unsigned *room = xcalloc(w->vmm_ct + 1, sizeof(*room));
    size_t p;

    ret->move_ct = 0;
    ret->jobs = 0;
    ret->cut = false;
    ret->unplaced = false;
    for (size_t i = 0; i < w->vmm_ct; i++)
        room[i] = vmm_free(w->vmms[i]);
    while ((p = oldest(w, rows)) < w->place_ct) {
        size_t v;

        if (!rows[p].fits)
            rows[p].fits = fits_make(w, w->places[p].text);
        v = roomiest(w, rows[p].fits, room);
        if (v == w->vmm_ct) {
            rows[p].blocked = true;
            ret->unplaced = true;
            continue;
        }
        if (ret->jobs == PLAN_JOBS_MAX || !add(ret, w->places[p].number, w->vmms[v])) {
            ret->cut = true;
            break;
        }
        room[v]--;
        rows[p].next++;
        if (rows[p].next == w->places[p].head_ct && w->places[p].length > rows[p].next)
            ret->cut = true; /* more of it wait than were told */
    }
    if (!any(room, w->vmm_ct))
        ret->unplaced = ret->cut = false;
    for (size_t i = 0; i < w->place_ct; i++)
        free(rows[i].fits);
    free(rows);
    free(room);
}
