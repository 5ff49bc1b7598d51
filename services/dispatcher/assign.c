#include "services/dispatcher/assign.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/dispatcher.h"
#include "services/dispatcher/reply.h"
#include "services/dispatcher/scripts.h"

/* Jobs of one run of the script, which holds up Redis: about 20 us each. */
#define BATCH 64
#define FIXED 3 /* args before the moves */

static void tell(const redisReply *r)
{
    for (size_t i = 1; i + 1 < r->elements; i += 2)
        log_event(LOG_INFO_, "job.assigned", "job", reply_str(r, i), "vmm", reply_str(r, i + 1),
                  NULL);
}

/* Of the moves from `first` on as many as make a batch; how many. */
static size_t batch(const struct plan *plan, size_t first)
{
    unsigned jobs = 0;
    size_t i = first;

    while (i < plan->move_ct && i - first < BATCH && (i == first || jobs < BATCH))
        jobs += plan->moves[i++].count;
    return i - first;
}

int assign_plan(struct dispatcher *d, const struct world *w, const struct plan *plan,
                struct error *err)
{
    for (size_t first = 0, ct; first < plan->move_ct; first += ct) {
        const char *argv[FIXED + 3 * BATCH];
        struct number now = number(clock_wall_ms()), place[BATCH], most[BATCH];
        cleanup_reply redisReply *r = NULL;
        int rc;

        ct = batch(plan, first);
        argv[1] = w->run_id;
        argv[2] = now.text;
        for (size_t i = 0; i < ct; i++) {
            const struct move *m = &plan->moves[first + i];
            place[i] = number(m->place);
            most[i] = number(m->count);
            argv[FIXED + 3 * i] = place[i].text;
            argv[FIXED + 3 * i + 1] = m->vmm->name;
            argv[FIXED + 3 * i + 2] = most[i].text;
        }
        rc = dispatcher_ask(d, &script_assign, FIXED + 3 * (int)ct, argv, NULL, &r, err);
        if (rc < 0)
            return rc;
        tell(r);
    }
    return 0;
}
