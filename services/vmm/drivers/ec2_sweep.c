#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#define SWEEP_MS  30000
#define AGAIN_MS  1000
#define SPOT_MS   5000  /* of the two minutes that AWS gives notice */
#define SETTLE_MS 60000 /* EC2 tells all that it has made by then */

/* ---- what is at EC2 ---- */

const char *ec2_tag(const struct xml *instance, const char *key)
{
    for (const struct xml *t = xml_find(instance, "tagSet/item"); t; t = xml_next(t))
        if (strcmp(xml_text(t, "key"), key) == 0)
            return xml_text(t, "value");
    return "";
}

bool ec2_is_over(const struct xml *instance)
{
    const char *state = xml_text(instance, "instanceState/name");

    return strcmp(state, "shutting-down") == 0 || strcmp(state, "terminated") == 0;
}

static void list_form(const struct ec2 *e, bool own, const char *next, struct buf *form)
{
    static const char *const states[] = {"pending", "running", "stopping", "stopped"};

    ec2_form(form, "DescribeInstances");
    ec2_param(form, "100", "MaxResults");
    ec2_param(form, "tag:" EC2_TAG_DEPLOYMENT, "Filter.1.Name");
    ec2_param(form, e->cfg->deployment, "Filter.1.Value.1");
    ec2_param(form, own ? "tag:" EC2_TAG_VMM : "instance-state-name", "Filter.2.Name");
    for (size_t i = 0; i < ARRAY_SIZE(states) && !own; i++)
        ec2_param(form, states[i], "Filter.2.Value.%zu", i + 1);
    if (own)
        ec2_param(form, e->cfg->vmm_name, "Filter.2.Value.1");
    if (next[0])
        ec2_param(form, next, "NextToken");
}

/* The filters have said it already, and what is not ours must not hang on that. */
static bool ours(const struct ec2 *e, bool own, const struct xml *instance)
{
    return xml_text(instance, "instanceId")[0] &&
           strcmp(ec2_tag(instance, EC2_TAG_DEPLOYMENT), e->cfg->deployment) == 0 &&
           (!own || strcmp(ec2_tag(instance, EC2_TAG_VMM), e->cfg->vmm_name) == 0);
}

int ec2_list(struct ec2 *e, bool own, void (*each)(struct ec2 *e, const struct xml *i, void *arg),
             void *arg, int64_t deadline, struct error *err)
{
    char next[1024] = "";

    do {
        struct buf form cleanup_buf = BUF_INIT(0);
        struct xml *x = NULL;

        list_form(e, own, next, &form);
        int r = ec2_call(e->api, &form, deadline, &x, NULL, err);
        if (r < 0)
            return r;
        for (const struct xml *v = xml_find(x, "reservationSet/item"); v; v = xml_next(v))
            for (const struct xml *i = xml_find(v, "instancesSet/item"); i; i = xml_next(i))
                if (ours(e, own, i))
                    each(e, i, arg);
        snprintf(next, sizeof(next), "%s", xml_text(x, "nextToken"));
        xml_free(x);
    } while (next[0]);
    return 0;
}

/* ---- what is owed ---- */

void ec2_owe(struct ec2 *e, const char *token)
{
    struct ec2_owed *o = xcalloc(1, sizeof(*o));

    snprintf(o->token, sizeof(o->token), "%s", token);
    o->since_ms = clock_mono_ms();
    pthread_mutex_lock(&e->b->set.lock);
    o->next = e->owed;
    e->owed = o;
    pthread_mutex_unlock(&e->b->set.lock);
    event_signal(e->wake_fd);
}

static bool is_owed(struct ec2 *e, const char *token)
{
    bool found = false;

    pthread_mutex_lock(&e->b->set.lock);
    for (const struct ec2_owed *o = e->owed; o && !found; o = o->next)
        found = strcmp(o->token, token) == 0;
    pthread_mutex_unlock(&e->b->set.lock);
    return found;
}

static bool owes(struct ec2 *e)
{
    pthread_mutex_lock(&e->b->set.lock);
    bool any = e->owed != NULL;
    pthread_mutex_unlock(&e->b->set.lock);
    return any;
}

/* That token; with NULL, all for which nothing has come to be within SETTLE_MS. */
static void forgive(struct ec2 *e, const char *token)
{
    struct ec2_owed *over = NULL;

    pthread_mutex_lock(&e->b->set.lock);
    for (struct ec2_owed **at = &e->owed; *at;) {
        struct ec2_owed *o = *at;
        if (token ? strcmp(o->token, token) != 0 : clock_mono_ms() - o->since_ms < SETTLE_MS) {
            at = &o->next;
            continue;
        }
        *at = o->next;
        o->next = over;
        over = o;
    }
    pthread_mutex_unlock(&e->b->set.lock);
    while (over) {
        struct ec2_owed *o = over;
        over = o->next;
        ec2_ledger_drop(e->ledger, o->token);
        free(o);
    }
}

/* It was seen: so it is not what has never come to be. */
static void owe_still(struct ec2 *e, const char *token)
{
    pthread_mutex_lock(&e->b->set.lock);
    for (struct ec2_owed *o = e->owed; o; o = o->next)
        if (strcmp(o->token, token) == 0)
            o->since_ms = clock_mono_ms();
    pthread_mutex_unlock(&e->b->set.lock);
}

static void end_owed(struct ec2 *e, const struct xml *instance, void *arg)
{
    const char *id = xml_text(instance, "instanceId"), *token = ec2_tag(instance, EC2_TAG_TOKEN);
    struct error err = ERROR_INIT;

    (void)arg;
    if (!is_owed(e, token))
        return;
    int r = ec2_is_over(instance) ? 0 : ec2_terminate(e, id, clock_mono_ms(), &err);
    if (r == 0)
        forgive(e, token);
    else
        owe_still(e, token);
    log_event(r < 0 ? LOG_WARN_ : LOG_INFO_, r < 0 ? "ec2.lingers" : "ec2.ended", "instance", id,
              "reason", r < 0 ? err.msg : "nobody here has it any more", NULL);
}

static int sweep(struct ec2 *e, int64_t deadline, struct error *err)
{
    int r = owes(e) ? ec2_list(e, true, end_owed, NULL, deadline, err) : 0;

    if (r == 0)
        forgive(e, NULL);
    return r;
}

bool ec2_settle(struct ec2 *e, int64_t deadline)
{
    for (;;) {
        struct error err = ERROR_INIT;
        if (sweep(e, deadline, &err) < 0)
            log_event(LOG_WARN_, "ec2.unswept", "reason", err.msg, NULL);
        if (!owes(e))
            return true;
        if (clock_mono_ms() + AGAIN_MS >= deadline)
            return false;
        event_wait(-1, clock_mono_ms() + AGAIN_MS);
    }
}

/* ---- the sweeper ---- */

/* Sleeps until it is time, or something calls: then *ret_called. False: we are to stop. */
static bool rest(struct ec2 *e, int64_t until, bool *ret_called)
{
    struct pollfd fds[2] = {{.fd = e->b->set.stop_fd, .events = POLLIN},
                            {.fd = e->wake_fd, .events = POLLIN}};

    poll(fds, 2, clock_until_ms(until));
    event_clear(e->wake_fd);
    *ret_called = fds[1].revents != 0;
    return fds[0].revents == 0;
}

/* `all`: it is time, or there is news. */
static int look(struct ec2 *e, struct ec2_reaper *reaper, bool all, struct error *err)
{
    int64_t deadline = clock_mono_ms() + SWEEP_MS;
    int r = 0;

    if (ec2_ledger_wants_look(e->ledger))
        r = ec2_reap_tell(e, deadline, err);
    if (r == 0)
        r = sweep(e, deadline, err);
    if (r == 0 && all && ec2_ledger_leads(e->ledger))
        r = ec2_reap(e, reaper, deadline, err);
    return r;
}

/* When the next look is due. */
static int64_t next_look(struct ec2 *e, int64_t due, bool soon)
{
    int64_t now = clock_mono_ms();
    int64_t again = soon ? now + AGAIN_MS : ec2_spot_any(e) ? now + SPOT_MS : due;

    return again < due ? again : due;
}

static void *sweeper_main(void *arg)
{
    struct ec2 *e = arg;
    struct ec2_reaper *reaper = ec2_reaper_new();
    int64_t due = clock_mono_ms(), spot_at = 0;
    bool called = true;
    int r;

    do {
        struct error err = ERROR_INIT;
        bool timely = clock_mono_ms() >= due;
        r = look(e, reaper, called || timely, &err);
        if (r < 0)
            log_event(LOG_WARN_, "ec2.unswept", "reason", err.msg, NULL);
        if (timely)
            due = clock_mono_ms() + e->cfg->ec2_reap_ms;
        if (clock_mono_ms() >= spot_at) {
            ec2_spot_look(e, clock_mono_ms() + SWEEP_MS);
            spot_at = clock_mono_ms() + SPOT_MS - 1;
        }
    } while (rest(e, next_look(e, due, r < 0 || owes(e)), &called));
    ec2_reaper_free(reaper);
    return NULL;
}

void ec2_sweep_start(struct ec2 *e)
{
    e->sweeps = true;
    e->sweeper = thread_start(sweeper_main, e);
}

void ec2_sweep_stop(struct ec2 *e)
{
    if (e->sweeps)
        pthread_join(e->sweeper, NULL);
    e->sweeps = false;
}
