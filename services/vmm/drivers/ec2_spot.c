/* Spot instances that AWS takes back. The instance's own metadata would tell two minutes ahead, but
 * they are turned off for the jobs' sake; its spot request tells the same from outside, by a status
 * of "marked-for-...". Whoever asks later is told by the instance's own state. */

#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <stdio.h>
#include <string.h>

#define NOTICE_MS 120000 /* that AWS gives */
#define EARLY_MS  20000  /* before its end, so that jobs begin anew without waiting for it */
#define WHY_MS    10000  /* for EC2 to know what has become of an instance */
#define AGAIN_MS  1000

bool ec2_spot_any(struct ec2 *e)
{
    bool any = false;

    pthread_mutex_lock(&e->b->set.lock);
    for (size_t i = 0; i < e->place_ct; i++)
        any = any || e->places[i].spot[0];
    pthread_mutex_unlock(&e->b->set.lock);
    return any;
}

/* With the lock. */
static void note(struct ec2 *e, size_t i, const char *status)
{
    struct ec2_place *p = &e->places[i];

    if (p->taken)
        return;
    p->taken = true;
    p->taken_ms = clock_mono_ms();
    p->lived_taken = p->lived_taken || p->life == e->b->hosts[i].at.life;
    log_event(LOG_WARN_, "ec2.taken_back", "host", p->spec.name, "instance", p->instance, "status",
              status, NULL);
    hosts_wake(&e->b->set); /* another one is to come */
    for (size_t k = 0; k < e->b->host_ct; k++)
        event_signal(e->b->hosts[k].at.wake_fd);
}

static void note_request(struct ec2 *e, const struct xml *request)
{
    const char *id = xml_text(request, "spotInstanceRequestId"),
               *status = xml_text(request, "status/code");

    if (strncmp(status, "marked-for-", 11) != 0 &&
        (strncmp(status, "instance-", 9) != 0 || strstr(status, "-by-user")))
        return;
    pthread_mutex_lock(&e->b->set.lock);
    for (size_t i = 0; i < e->place_ct; i++)
        if (id[0] && strcmp(e->places[i].spot, id) == 0)
            note(e, i, status);
    pthread_mutex_unlock(&e->b->set.lock);
}

/* Those whose time is over soon, with machines on them. */
static void give_up_late(struct ec2 *e)
{
    for (size_t i = 0; i < e->b->host_ct; i++) {
        struct ssh_host *h = &e->b->hosts[i];
        pthread_mutex_lock(&e->b->set.lock);
        bool late = e->places[i].taken && h->at.state != HOST_OUT &&
                    clock_mono_ms() - e->places[i].taken_ms > NOTICE_MS - EARLY_MS;
        uint64_t life = h->at.life;
        pthread_mutex_unlock(&e->b->set.lock);
        if (late)
            host_doom(&h->at, life, "AWS takes it back");
    }
}

void ec2_spot_look(struct ec2 *e, int64_t deadline)
{
    struct buf form cleanup_buf = BUF_INIT(0);
    struct error err = ERROR_INIT;
    struct xml *x = NULL;
    size_t ct = 0;

    ec2_form(&form, "DescribeSpotInstanceRequests");
    pthread_mutex_lock(&e->b->set.lock);
    for (size_t i = 0; i < e->place_ct; i++)
        if (e->places[i].spot[0] && !e->places[i].taken)
            ec2_param(&form, e->places[i].spot, "SpotInstanceRequestId.%zu", ++ct);
    pthread_mutex_unlock(&e->b->set.lock);
    if (ct > 0 && ec2_call(e->api, &form, deadline, &x, NULL, &err) < 0)
        log_event(LOG_WARN_, "ec2.no_notices", "reason", err.msg, NULL);
    for (const struct xml *i = x ? xml_find(x, "spotInstanceRequestSet/item") : NULL; i;
         i = xml_next(i))
        note_request(e, i);
    xml_free(x);
    give_up_late(e);
}

/* ---- afterwards ---- */

/* 1: AWS has ended it; 0: it has not; -1: it is not known yet. */
static int was_taken(struct ec2 *e, const char *instance, int64_t deadline)
{
    struct buf form cleanup_buf = BUF_INIT(0);
    struct error err = ERROR_INIT;
    struct xml *x = NULL;

    ec2_form(&form, "DescribeInstances");
    ec2_param(&form, instance, "InstanceId.1");
    if (ec2_call(e->api, &form, deadline, &x, NULL, &err) < 0)
        return -1;
    const struct xml *i = xml_find(x, "reservationSet/item/instancesSet/item");
    bool ends = i && strcmp(xml_text(i, "instanceState/name"), "running") != 0;
    bool taken =
        ends && strcmp(xml_text(i, "stateReason/code"), "Server.SpotInstanceTermination") == 0;
    xml_free(x);
    return taken ? 1 : ends ? 0 : -1;
}

bool ec2_excused(struct ssh_host *h, uint64_t life)
{
    struct ec2 *e = h->b->provided;
    struct ec2_place *p = h->lent;
    int64_t deadline = clock_mono_ms() + WHY_MS;
    char instance[32];
    int taken = -1;

    pthread_mutex_lock(&e->b->set.lock);
    bool known = p->life == life && p->lived_spot, told = known && p->lived_taken;
    memcpy(instance, p->lived, sizeof(instance));
    pthread_mutex_unlock(&e->b->set.lock);
    if (!known || told)
        return told;
    while ((taken = was_taken(e, instance, deadline)) < 0 &&
           !event_wait(e->b->set.stop_fd, clock_mono_ms() + AGAIN_MS) && clock_mono_ms() < deadline)
        ;
    return taken > 0;
}
