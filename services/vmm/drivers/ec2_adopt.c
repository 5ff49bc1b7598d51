/* What an earlier life of this vmm has left: its instances have our name, so nobody else uses them,
 * and what ran on them has ended with the pipes of that life; the hostdriver makes sure when we
 * connect. All is as after RunInstances: it has to run, to tell its key, to have no metadata. */

#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define ADOPT_MS 20000

/* How old an instance is, by two clocks of which neither need be right: never less than 0. */
static int64_t age_ms(const char *launched)
{
    struct tm tm = {0};
    const char *rest = strptime(launched, "%Y-%m-%dT%H:%M:%S", &tm);
    int64_t age = rest ? clock_wall_ms() - (int64_t)timegm(&tm) * 1000 : 0;

    return age > 0 ? age : 0;
}

static bool is_known(const struct ec2 *e, const char *ami)
{
    for (size_t i = 0; i < e->image_ct; i++)
        if (strcmp(e->images[i].ami, ami) == 0)
            return true;
    return false;
}

static struct ec2_place *vacancy(struct ec2 *e)
{
    for (size_t i = 0; i < e->place_ct; i++)
        if (!e->places[i].want[0])
            return &e->places[i];
    return NULL;
}

/* Why it is not taken over; NULL when it is. */
static const char *take(struct ec2 *e, const struct xml *i, const char *token, int64_t age)
{
    const char *state = xml_text(i, "instanceState/name"), *ami = xml_text(i, "imageId"),
               *type = xml_text(i, "instanceType"), *id = xml_text(i, "instanceId");
    bool spot = strcmp(xml_text(i, "instanceLifecycle"), "spot") == 0;
    cleanup_free char *want = xasprintf("%s+%s", ami, type);
    struct ec2_place *p = vacancy(e);

    if (strcmp(state, "running") != 0 && strcmp(state, "pending") != 0)
        return "it does not run";
    if (!is_known(e, ami))
        return "its image is no longer there";
    if (age > e->cfg->ec2_max_age_s * 1000)
        return "it is as old as ec2_max_age_s";
    if (!p)
        return "ec2_max are there";
    if (strlen(id) >= sizeof(p->instance) || strlen(type) >= sizeof(p->type) ||
        strlen(want) >= sizeof(p->want))
        return "its names are too long";
    snprintf(p->want, sizeof(p->want), "%s", want);
    snprintf(p->token, sizeof(p->token), "%s", token);
    snprintf(p->instance, sizeof(p->instance), "%s", id);
    snprintf(p->type, sizeof(p->type), "%s", type);
    snprintf(p->spot, sizeof(p->spot), "%s", xml_text(i, "spotInstanceRequestId"));
    p->made_ms = clock_mono_ms() - age;
    p->idle_ms = clock_mono_ms();
    int64_t cost = config_ec2_price(e->cfg->ec2_prices, type, spot);
    ec2_ledger_adopt(e->ledger, token, cost > 0 ? cost : 0);
    log_event(LOG_INFO_, "ec2.adopted", "host", p->spec.name, "instance", id, "image", ami, "type",
              type, "age_s", LOG_NUM(age / 1000), NULL);
    return NULL;
}

static void each(struct ec2 *e, const struct xml *i, void *arg)
{
    const char *token = ec2_tag(i, EC2_TAG_TOKEN), *why;

    (void)arg;
    if (!token[0] || strlen(token) >= EC2_TOKEN_MAX)
        return; /* not of our making, whatever its tags say */
    if (ec2_is_over(i))
        return;
    pthread_mutex_lock(&e->b->set.lock);
    why = take(e, i, token, age_ms(xml_text(i, "launchTime")));
    pthread_mutex_unlock(&e->b->set.lock);
    if (why)
        log_event(LOG_WARN_, "ec2.not_adopted", "instance", xml_text(i, "instanceId"), "reason",
                  why, NULL);
}

void ec2_adopt(struct ec2 *e)
{
    struct error err = ERROR_INIT;

    if (ec2_list(e, true, each, NULL, clock_mono_ms() + ADOPT_MS, &err) < 0)
        log_event(LOG_WARN_, "ec2.unadopted", "reason", err.msg, NULL);
}
