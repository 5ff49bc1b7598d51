/* The reaper: of all vmms of a deployment that work in one account and region, the ledger's leader
 * ends the instances that nobody claims. What it looks at first is EC2, then the claims: so a claim
 * that is made meanwhile, and its instance, are not taken apart. It touches nothing but what has
 * the deployment's tag, and nothing at all while the ledger stands still. */

#include "services/vmm/drivers/ec2_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SETTLE_MS 60000 /* EC2 tells all that it has made by then */

/* An instance that is there. */
struct found {
    char id[32], token[EC2_TOKEN_MAX], vmm[80], state[24], launched[32];
    int64_t cost;
    const struct ec2_claim *claim;
};

/* A void claim without an instance: maybe EC2 does not tell of it yet. */
struct waited {
    char token[EC2_TOKEN_MAX];
    int64_t since_ms;
    bool fresh;
};

struct ec2_reaper {
    struct waited *waited;
    size_t waited_ct;
    char still[200]; /* as it was last told */
    struct found *list;
    size_t ct;
};

struct ec2_reaper *ec2_reaper_new(void)
{
    return xcalloc(1, sizeof(struct ec2_reaper));
}

void ec2_reaper_free(struct ec2_reaper *r)
{
    free(r->waited);
    free(r->list);
    free(r);
}

/* ---- looking ---- */

static void add_found(struct ec2 *e, const struct xml *i, void *arg)
{
    struct ec2_reaper *r = arg;
    const char *spot = xml_text(i, "instanceLifecycle"), *token = ec2_tag(i, EC2_TAG_TOKEN);
    int64_t cost = config_ec2_price(e->cfg->ec2_prices, xml_text(i, "instanceType"),
                                    strcmp(spot, "spot") == 0);

    r->list = xrealloc(r->list, (r->ct + 1) * sizeof(*r->list));
    struct found *f = &r->list[r->ct++];
    *f = (struct found){.cost = cost > 0 ? cost : 0};
    snprintf(f->id, sizeof(f->id), "%s", xml_text(i, "instanceId"));
    snprintf(f->token, sizeof(f->token), "%s", strlen(token) < sizeof(f->token) ? token : "");
    snprintf(f->vmm, sizeof(f->vmm), "%s", ec2_tag(i, EC2_TAG_VMM));
    snprintf(f->state, sizeof(f->state), "%s", xml_text(i, "instanceState/name"));
    snprintf(f->launched, sizeof(f->launched), "%s", xml_text(i, "launchTime"));
}

static int look(struct ec2 *e, struct ec2_reaper *r, int64_t deadline, struct error *err)
{
    r->ct = 0;
    return ec2_list(e, false, add_found, r, deadline, err);
}

static int tell_of(struct ec2 *e, const struct ec2_reaper *r, struct error *err)
{
    cleanup_free const char **tokens = xcalloc(r->ct + 1, sizeof(*tokens));

    for (size_t i = 0; i < r->ct; i++)
        tokens[i] = r->list[i].token;
    return ec2_ledger_tell(e->ledger, tokens, err);
}

int ec2_reap_tell(struct ec2 *e, int64_t deadline, struct error *err)
{
    struct ec2_reaper *r = ec2_reaper_new();

    int rc = look(e, r, deadline, err);
    if (rc == 0)
        rc = tell_of(e, r, err);
    ec2_reaper_free(r);
    return rc;
}

/* ---- judging ---- */

static const struct ec2_claim *claim_of(const struct ec2_claims *c, const char *token)
{
    for (size_t i = 0; i < c->ct; i++)
        if (strcmp(c->list[i].token, token) == 0)
            return &c->list[i];
    return NULL;
}

/* Whether this ledger can say that nobody claims it. */
static bool can_judge(const struct ec2_claims *c, const char *token)
{
    char ledger[40] = "-", word[44];
    int64_t number = 0;

    if (ec2_token_parse(token, ledger, &number) && strcmp(ledger, c->id) == 0)
        return number <= c->serial;
    snprintf(word, sizeof(word), " %s ", ledger);
    return strstr(c->trust, word) != NULL;
}

/* 1: some make one doubt, which the ledger is told; then nothing is ended in this look. */
static int doubt(struct ec2 *e, const struct ec2_reaper *r, const struct ec2_claims *c,
                 struct error *err)
{
    bool any = false;

    for (size_t i = 0; i < r->ct && !any; i++)
        any = !r->list[i].claim && !can_judge(c, r->list[i].token);
    if (!any || c->still[0])
        return 0;
    int rc = tell_of(e, r, err);
    if (rc == 0)
        event_signal(e->wake_fd); /* and again, with what the ledger makes of it */
    return rc < 0 ? rc : 1;
}

/* With what is to be done about it, which is told once as long as it stays. */
static bool stands_still(struct ec2_reaper *r, const struct ec2_claims *c)
{
    if (c->still[0] && strcmp(c->still, r->still) != 0)
        log_event(LOG_ERROR_, "ec2.stands_still", "reason", c->still, "remedy",
                  "docs/ec2.md, \"When Redis has lost its past\"", NULL);
    if (!c->still[0] && r->still[0])
        log_event(LOG_INFO_, "ec2.goes_on", NULL);
    snprintf(r->still, sizeof(r->still), "%s", c->still);
    return c->still[0] != '\0';
}

/* True when it has ended. */
static bool end_one(struct ec2 *e, const struct found *f, const char *still)
{
    const char *alone = still[0] ? "still" : e->cfg->ec2_reap_dry ? "yes" : "no";
    struct error err = ERROR_INIT;
    int r = 0;

    if (strcmp(alone, "no") == 0)
        r = ec2_terminate(e, f->id, clock_mono_ms(), &err);
    log_event(LOG_WARN_, r < 0 ? "ec2.unreaped" : "ec2.reaped", "instance", f->id, "vmm", f->vmm,
              "state", f->state, "launched", f->launched, "dry", alone, "reason", err.msg, NULL);
    return r == 0 && strcmp(alone, "no") == 0;
}

static bool is_listed(const struct ec2_reaper *r, const char *token)
{
    for (size_t i = 0; i < r->ct; i++)
        if (strcmp(r->list[i].token, token) == 0)
            return true;
    return false;
}

/* True when it has been void, and without an instance, for so long that there is none. */
static bool waited_out(struct ec2_reaper *r, const char *token)
{
    struct waited *w = NULL;

    for (size_t i = 0; i < r->waited_ct && !w; i++)
        if (strcmp(r->waited[i].token, token) == 0)
            w = &r->waited[i];
    if (!w) {
        r->waited = xrealloc(r->waited, (r->waited_ct + 1) * sizeof(*r->waited));
        w = &r->waited[r->waited_ct++];
        *w = (struct waited){.since_ms = clock_mono_ms()};
        snprintf(w->token, sizeof(w->token), "%s", token);
    }
    w->fresh = true;
    return clock_mono_ms() - w->since_ms > SETTLE_MS;
}

static void forget_waited(struct ec2_reaper *r)
{
    size_t kept = 0;

    for (size_t i = 0; i < r->waited_ct; i++)
        if (r->waited[i].fresh) {
            r->waited[kept] = r->waited[i];
            r->waited[kept++].fresh = false;
        }
    r->waited_ct = kept;
}

static int conclude(struct ec2 *e, struct ec2_reaper *r, const struct ec2_claims *c,
                    struct error *err)
{
    cleanup_free const char **over = xcalloc(r->ct + c->ct + 1, sizeof(*over));
    bool stands = stands_still(r, c);
    size_t over_ct = 0;
    int64_t strays = 0;

    for (size_t i = 0; i < r->ct; i++) {
        const struct found *f = &r->list[i];
        if (f->claim && f->claim->held)
            continue;
        bool ended = end_one(e, f, stands ? c->still : "");
        if (ended && f->claim)
            over[over_ct++] = f->claim->token;
        else if (!ended && !f->claim)
            strays += f->cost;
    }
    for (size_t i = 0; i < c->ct; i++)
        if (!c->list[i].held && !is_listed(r, c->list[i].token) && waited_out(r, c->list[i].token))
            over[over_ct++] = c->list[i].token;
    forget_waited(r);
    return ec2_ledger_reaped(e->ledger, strays, over, err);
}

int ec2_reap(struct ec2 *e, struct ec2_reaper *r, int64_t deadline, struct error *err)
{
    struct ec2_claims c = {0};

    int rc = look(e, r, deadline, err);
    if (rc == 0)
        rc = ec2_ledger_claims(e->ledger, &c, err);
    if (rc == -EAGAIN)
        return 0; /* another one's by now */
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < r->ct; i++)
        r->list[i].claim = claim_of(&c, r->list[i].token);
    rc = doubt(e, r, &c, err);
    if (rc == 0)
        rc = conclude(e, r, &c, err);
    ec2_claims_done(&c);
    return rc < 0 ? rc : 0;
}
