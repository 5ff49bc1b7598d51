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

/* The placement with the oldest head, among those whose jobs run alone or among the others. */
static size_t oldest(const struct world *w, const struct row *rows, bool alone)
{
    size_t best = w->place_ct;

    for (size_t i = 0; i < w->place_ct; i++) {
        const struct place *p = &w->places[i];

        if (rows[i].blocked || !p->text || p->text->alone != alone || rows[i].next >= p->head_ct)
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

/* ---- jobs that run alone ---- */

/* Of the vmms that fit the one on which least runs and that is not taken; its index, or vmm_ct. */
static size_t emptiest(const struct world *w, const struct place_text *t, const bool *taken)
{
    size_t best = w->vmm_ct;

    for (size_t i = 0; i < w->vmm_ct; i++) {
        const struct vmm_view *v = w->vmms[i];

        if (taken[i] || v->solo || v->slots == 0 || !vmm_fits(v, t))
            continue;
        if (best == w->vmm_ct || v->running < w->vmms[best]->running)
            best = i;
    }
    return best;
}

/* How many vmms may run one job alone, or be kept free for one, beside those that do: so that many
 * suspects leave half of the vmms to the others. */
static unsigned solo_room(const struct world *w)
{
    unsigned up = 0, solo = 0;

    for (size_t i = 0; i < w->vmm_ct; i++) {
        up += w->vmms[i]->up && !w->vmms[i]->drain;
        solo += w->vmms[i]->up && w->vmms[i]->solo;
    }
    up = up > 1 ? up / 2 : up;
    return up > solo ? up - solo : 0;
}

/* The oldest suspect goes to an empty vmm. Where there is none, nothing more goes to that one on
 * which least runs, until it is empty: the least that runs anywhere can only fall while this goes
 * on, so it comes to an end without any memory of the choice. */
static void plan_alone(const struct world *w, struct plan *ret, struct row *rows, unsigned *room)
{
    cleanup_free bool *taken = xcalloc(w->vmm_ct + 1, sizeof(*taken));
    unsigned most = solo_room(w);
    bool kept = false;
    size_t p;

    while (most > 0 && (p = oldest(w, rows, true)) < w->place_ct) {
        size_t v = emptiest(w, w->places[p].text, taken);

        if (v == w->vmm_ct || (w->vmms[v]->running > 0 && kept)) {
            rows[p].blocked = true;
            ret->unplaced = ret->unplaced || v == w->vmm_ct;
            continue;
        }
        taken[v] = true;
        room[v] = 0;
        most--;
        if (w->vmms[v]->running > 0)
            rows[p].blocked = kept = true;
        else if (!add(ret, w->places[p].number, w->vmms[v]))
            return;
        rows[p].next++;
    }
}

/* ---- all others ---- */

static void plan_others(const struct world *w, struct plan *ret, struct row *rows, unsigned *room)
{
    size_t p;

    while ((p = oldest(w, rows, false)) < w->place_ct) {
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
}

void plan_make(const struct world *w, struct plan *ret)
{
    struct row *rows = xcalloc(w->place_ct + 1, sizeof(*rows));
    unsigned *room = xcalloc(w->vmm_ct + 1, sizeof(*room));

    ret->move_ct = 0;
    ret->jobs = 0;
    ret->cut = false;
    ret->unplaced = false;
    for (size_t i = 0; i < w->vmm_ct; i++)
        room[i] = vmm_free(w->vmms[i]);
    plan_alone(w, ret, rows, room);
    plan_others(w, ret, rows, room);
    if (!any(room, w->vmm_ct))
        ret->unplaced = ret->cut = false;
    for (size_t i = 0; i < w->place_ct; i++)
        free(rows[i].fits);
    free(rows);
    free(room);
}
