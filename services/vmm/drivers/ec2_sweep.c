#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <stdio.h>
#include <string.h>

#define SWEEP_MS  30000
#define AGAIN_MS  1000
#define SETTLE_MS 60000 /* EC2 tells all that it has made by then */

static const char *tag_of(const struct xml *instance, const char *key)
{
    for (const struct xml *t = xml_find(instance, "tagSet/item"); t; t = xml_next(t))
        if (strcmp(xml_text(t, "key"), key) == 0)
            return xml_text(t, "value");
    return "";
}

static bool claimed(struct ec2 *e, const char *token)
{
    bool found = false;

    pthread_mutex_lock(&e->b->set.lock);
    for (size_t i = 0; i < e->place_ct && !found; i++)
        found = token[0] && strcmp(e->places[i].token, token) == 0;
    pthread_mutex_unlock(&e->b->set.lock);
    return found;
}

/* The filters have said it already, and what is not ours must not hang on that. */
static bool ours(const struct ec2 *e, const struct xml *instance)
{
    return strcmp(tag_of(instance, EC2_TAG_DEPLOYMENT), e->cfg->deployment) == 0 &&
           strcmp(tag_of(instance, EC2_TAG_VMM), e->cfg->vmm_name) == 0;
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
}

/* That token; with NULL, all for which nothing has come to be within SETTLE_MS. */
static void forgive(struct ec2 *e, const char *token)
{
    pthread_mutex_lock(&e->b->set.lock);
    for (struct ec2_owed **at = &e->owed; *at;) {
        struct ec2_owed *o = *at;
        if (token ? strcmp(o->token, token) != 0 : clock_mono_ms() - o->since_ms < SETTLE_MS) {
            at = &o->next;
            continue;
        }
        *at = o->next;
        free(o);
    }
    pthread_mutex_unlock(&e->b->set.lock);
}

bool ec2_settle(struct ec2 *e, int64_t deadline)
{
    for (;;) {
        struct error err = ERROR_INIT;
        if (ec2_sweep(e, deadline, &err) < 0)
            log_event(LOG_WARN_, "ec2.unswept", "reason", err.msg, NULL);
        else if (!e->owed)
            return true;
        if (clock_mono_ms() + AGAIN_MS >= deadline)
            return false;
        event_wait(-1, clock_mono_ms() + AGAIN_MS);
    }
}

/* ---- a look ---- */

static void look_at(struct ec2 *e, const struct xml *instance)
{
    const char *id = xml_text(instance, "instanceId");
    struct error err = ERROR_INIT;

    if (!id[0] || !ours(e, instance) || claimed(e, tag_of(instance, EC2_TAG_TOKEN)))
        return;
    int r = e->cfg->ec2_reap_dry ? 0 : ec2_terminate(e, id, clock_mono_ms(), &err);
    if (r == 0)
        forgive(e, tag_of(instance, EC2_TAG_TOKEN));
    log_event(LOG_WARN_, r < 0 ? "ec2.unreaped" : "ec2.reaped", "instance", id, "state",
              xml_text(instance, "instanceState/name"), "launched",
              xml_text(instance, "launchTime"), "dry", e->cfg->ec2_reap_dry ? "yes" : "no",
              "reason", err.msg, NULL);
}

static void sweep_form(const struct ec2 *e, const char *next, struct buf *form)
{
    static const char *const states[] = {"pending", "running", "stopping", "stopped"};

    ec2_form(form, "DescribeInstances");
    ec2_param(form, "100", "MaxResults");
    ec2_param(form, "tag:" EC2_TAG_DEPLOYMENT, "Filter.1.Name");
    ec2_param(form, e->cfg->deployment, "Filter.1.Value.1");
    ec2_param(form, "tag:" EC2_TAG_VMM, "Filter.2.Name");
    ec2_param(form, e->cfg->vmm_name, "Filter.2.Value.1");
    ec2_param(form, "instance-state-name", "Filter.3.Name");
    for (size_t i = 0; i < ARRAY_SIZE(states); i++)
        ec2_param(form, states[i], "Filter.3.Value.%zu", i + 1);
    if (next[0])
        ec2_param(form, next, "NextToken");
}

int ec2_sweep(struct ec2 *e, int64_t deadline, struct error *err)
{
    char next[1024] = "";

    do {
        struct buf form cleanup_buf = BUF_INIT(0);
        struct xml *x = NULL;

        sweep_form(e, next, &form);
        int r = ec2_call(e->api, &form, deadline, &x, NULL, err);
        if (r < 0)
            return r;
        for (const struct xml *v = xml_find(x, "reservationSet/item"); v; v = xml_next(v))
            for (const struct xml *i = xml_find(v, "instancesSet/item"); i; i = xml_next(i))
                look_at(e, i);
        snprintf(next, sizeof(next), "%s", xml_text(x, "nextToken"));
        xml_free(x);
    } while (next[0]);
    forgive(e, NULL);
    return 0;
}

static void *sweeper_main(void *arg)
{
    struct ec2 *e = arg;

    do {
        struct error err = ERROR_INIT;
        if (ec2_sweep(e, clock_mono_ms() + SWEEP_MS, &err) < 0)
            log_event(LOG_WARN_, "ec2.unswept", "reason", err.msg, NULL);
    } while (!event_wait(e->b->set.stop_fd, clock_mono_ms() + e->cfg->ec2_reap_ms));
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
