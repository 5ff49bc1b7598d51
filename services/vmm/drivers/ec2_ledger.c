#include "services/vmm/drivers/ec2_ledger.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "services/vmm/scripts.h"
#include "services/vmm/sync.h"
#include "services/vmm/vmm.h"
#include "wire/rlink.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <uuid/uuid.h>

#define BEATS       6     /* in ec2_claim_ms */
#define WAIT_MS     10000 /* for Redis to be told what there is */
#define PACE_MS     400
#define PACE_CAP_MS 20000

struct own {
    char token[EC2_TOKEN_MAX];
    int64_t cost;
    bool dropped; /* and Redis is to be told */
};

/* Whose beat stands still since when, by our clock. */
struct seen {
    char *holder, *beat;
    int64_t since_ms;
    bool fresh; /* it was there at the last look */
};

struct ec2_ledger {
    const struct config *cfg;
    struct rlink *link;
    char *region;
    char *holder; /* vmm#RANDOM: this life */
    int wake_fd, poke_fd;
    pthread_t thread;

    pthread_mutex_t talk; /* before lock: a claim that is dropped is not told again by a beat */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *scope; /* REGION:ACCOUNT; NULL until the account is known */
    bool ending, ended, settled, leads;
    uint64_t beat;
    struct own *own;
    size_t own_ct;

    /* the thread's */
    struct seen *seen; /* holders; while we stand by, who leads */
    size_t seen_ct;
};

/* ---- words ---- */

static void random_word(char out[17])
{
    uuid_t uuid;

    uuid_generate(uuid);
    for (int i = 0; i < 8; i++)
        snprintf(out + 2 * i, 3, "%02x", uuid[i] ^ uuid[i + 8]);
}

bool ec2_token_parse(const char *token, char ledger[40], int64_t *ret_number)
{
    long long number;
    char id[40];

    if (sscanf(token, "m1.%39[0-9a-f].%lld.", id, &number) != 2 || number < 0)
        return false;
    snprintf(ledger, 40, "%s", id);
    *ret_number = number;
    return true;
}

/* argv of a script: words that are its own. */
struct words {
    char **v;
    size_t ct, room;
};

static void word(struct words *w, const char *text)
{
    if (w->ct == w->room) {
        w->room = w->room ? 2 * w->room : 16;
        w->v = xrealloc(w->v, w->room * sizeof(*w->v));
    }
    w->v[w->ct++] = xstrdup(text);
}

static void number_word(struct words *w, int64_t n)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)n);
    word(w, text);
}

/* Takes the words. The answer's first word says how it went. */
static int ask(struct ec2_ledger *l, const struct script *s, struct words *w, redisReply **ret,
               struct error *err)
{
    int r = rlink_eval(l->link, s, (int)w->ct, (const char *const *)w->v, NULL, ret, err);

    for (size_t i = 0; i < w->ct; i++)
        free(w->v[i]);
    free(w->v);
    *w = (struct words){0};
    return r;
}

static bool says(const redisReply *r, const char *what)
{
    return strcmp(reply_word(r), what) == 0;
}

/* The scope as the first word, then the server's run id; false while either is unknown. */
static bool begin(struct ec2_ledger *l, struct words *w, bool with_run_id)
{
    char run_id[41];

    rlink_run_id(l->link, run_id);
    pthread_mutex_lock(&l->lock);
    bool ready = l->scope && run_id[0];
    if (ready)
        word(w, l->scope);
    pthread_mutex_unlock(&l->lock);
    if (ready && with_run_id)
        word(w, run_id);
    return ready;
}

static int not_ready(struct error *err)
{
    return err_set(err, ERR_TEMPORARY, ENOTCONN,
                   "Redis, in which instances are claimed, is not there");
}

/* ---- claims; with the lock ---- */

static struct own *find_own(struct ec2_ledger *l, const char *token)
{
    for (size_t i = 0; i < l->own_ct; i++)
        if (strcmp(l->own[i].token, token) == 0)
            return &l->own[i];
    return NULL;
}

static struct own *add_own(struct ec2_ledger *l, const char *token, int64_t cost)
{
    struct own *o = find_own(l, token);

    if (!o) {
        l->own = xrealloc(l->own, (l->own_ct + 1) * sizeof(*l->own));
        o = &l->own[l->own_ct++];
    }
    *o = (struct own){.cost = cost};
    snprintf(o->token, sizeof(o->token), "%s", token);
    return o;
}

static void remove_own(struct ec2_ledger *l, const char *token)
{
    struct own *o = find_own(l, token);

    if (o)
        *o = l->own[--l->own_ct];
}

/* ---- a beat ---- */

static int send_beat(struct ec2_ledger *l, const char *take, redisReply **ret, struct error *err)
{
    struct words w = {0};

    if (!begin(l, &w, true))
        return not_ready(err);
    pthread_mutex_lock(&l->lock);
    word(&w, l->holder);
    number_word(&w, (int64_t)++l->beat);
    word(&w, take);
    for (size_t i = 0; i < l->own_ct; i++) {
        if (l->own[i].dropped)
            continue;
        word(&w, l->own[i].token);
        number_word(&w, l->own[i].cost);
    }
    pthread_mutex_unlock(&l->lock);
    return ask(l, &script_ec2_look, &w, ret, err);
}

/* `take`: "HOLDER BEAT" of a lead that has stood still for too long. */
static int look(struct ec2_ledger *l, const char *take, redisReply **ret, struct error *err)
{
    pthread_mutex_lock(&l->talk);
    int r = send_beat(l, take, ret, err);
    pthread_mutex_unlock(&l->talk);
    if (r < 0)
        return r;
    pthread_mutex_lock(&l->lock);
    bool was = l->settled, led = l->leads;
    l->settled = says(*ret, "ok");
    l->leads = l->settled && strcmp(reply_str(*ret, 3), l->holder) == 0;
    bool news = (was && !l->settled) || !l->settled || (l->leads && !led);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (news)
        event_signal(l->wake_fd);
    return 0;
}

static void forget_seen(struct ec2_ledger *l, bool all)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->seen_ct; i++) {
        struct seen *s = &l->seen[i];
        if (!all && s->fresh) {
            s->fresh = false;
            l->seen[kept++] = *s;
            continue;
        }
        free(s->holder);
        free(s->beat);
    }
    l->seen_ct = kept;
}

/* True when that beat has stood still for too long, or is that of an earlier life of ours. */
static bool stands(struct ec2_ledger *l, const char *holder, const char *beat)
{
    int64_t now = clock_mono_ms();
    size_t name = strlen(l->cfg->vmm_name);
    struct seen *s = NULL;

    if (strncmp(holder, l->cfg->vmm_name, name) == 0 && holder[name] == '#')
        return true;

    for (size_t i = 0; i < l->seen_ct && !s; i++)
        if (strcmp(l->seen[i].holder, holder) == 0)
            s = &l->seen[i];
    if (!s) {
        l->seen = xrealloc(l->seen, (l->seen_ct + 1) * sizeof(*l->seen));
        s = &l->seen[l->seen_ct++];
        *s = (struct seen){xstrdup(holder), xstrdup(beat), now, true};
    }
    s->fresh = true;
    if (strcmp(s->beat, beat) != 0) {
        free(s->beat);
        s->beat = xstrdup(beat);
        s->since_ms = now;
    }
    return now - s->since_ms > l->cfg->ec2_claim_ms;
}

static void void_holder(struct ec2_ledger *l, const char *holder, const char *beat)
{
    cleanup_reply redisReply *r = NULL;
    struct error err = ERROR_INIT;
    struct words w = {0};

    if (!begin(l, &w, true))
        return;
    word(&w, l->holder);
    word(&w, holder);
    word(&w, beat);
    if (ask(l, &script_ec2_void, &w, &r, &err) == 0 && says(r, "ok")) {
        log_event(LOG_WARN_, "ec2.holder_lost", "holder", holder, NULL);
        event_signal(l->wake_fd);
    }
}

static void watch_holders(struct ec2_ledger *l, const redisReply *r)
{
    for (size_t i = 7; i + 2 < r->elements; i += 3)
        if (strcmp(reply_str(r, i), "h") == 0 && strcmp(reply_str(r, i + 1), l->holder) != 0 &&
            stands(l, reply_str(r, i + 1), reply_str(r, i + 2)))
            void_holder(l, reply_str(r, i + 1), reply_str(r, i + 2));
}

/* False when there is none, or Redis is not there. */
static bool tell_one_dropped(struct ec2_ledger *l)
{
    cleanup_reply redisReply *r = NULL;
    struct error err = ERROR_INIT;
    char token[EC2_TOKEN_MAX] = "";
    struct words w = {0};

    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->own_ct && !token[0]; i++)
        if (l->own[i].dropped)
            memcpy(token, l->own[i].token, sizeof(token));
    pthread_mutex_unlock(&l->lock);
    if (!token[0] || !begin(l, &w, false))
        return false;
    word(&w, l->holder);
    word(&w, token);
    if (ask(l, &script_ec2_drop, &w, &r, &err) < 0)
        return false;
    pthread_mutex_lock(&l->lock);
    remove_own(l, token);
    pthread_mutex_unlock(&l->lock);
    return true;
}

/* Also those that could not be told when they were dropped. */
static void tell_dropped(struct ec2_ledger *l)
{
    pthread_mutex_lock(&l->talk);
    while (tell_one_dropped(l))
        ;
    pthread_mutex_unlock(&l->talk);
}

static void beat(struct ec2_ledger *l, char take[256])
{
    cleanup_reply redisReply *r = NULL;
    struct error err = ERROR_INIT;

    if (look(l, take, &r, &err) < 0 || !says(r, "ok")) {
        forget_seen(l, true); /* after a gap all are watched afresh */
        take[0] = '\0';
        return;
    }
    const char *lead = reply_str(r, 3), *lead_beat = reply_str(r, 4);
    take[0] = '\0';
    if (strcmp(lead, l->holder) == 0)
        watch_holders(l, r);
    else if (stands(l, lead, lead_beat))
        snprintf(take, 256, "%s %s", lead, lead_beat);
    forget_seen(l, false);
    tell_dropped(l);
}

static void *ledger_main(void *arg)
{
    struct ec2_ledger *l = arg;
    char take[256] = "";

    for (;;) {
        pthread_mutex_lock(&l->lock);
        bool ended = l->ended;
        pthread_mutex_unlock(&l->lock);
        if (ended)
            return NULL;
        beat(l, take);
        event_wait(l->poke_fd, clock_mono_ms() + (take[0] ? 0 : l->cfg->ec2_claim_ms / BEATS));
        event_clear(l->poke_fd);
    }
}

/* ---- claiming ---- */

static void format_money(int64_t millionths, char out[32])
{
    snprintf(out, 32, "%lld.%04lld", (long long)(millionths / 1000000),
             (long long)(millionths % 1000000 / 100));
}

static int above(const struct ec2_ledger *l, const char *reserved, int64_t cost, struct error *err)
{
    char sum[32], one[32];

    format_money(strtoll(reserved, NULL, 10), sum);
    format_money(cost, one);
    return err_set(err, ERR_TEMPORARY, ENOSPC,
                   "ec2_cost_max = %s does not allow for another instance: %s an hour are "
                   "reserved by all vmms, and this one costs %s",
                   l->cfg->ec2_cost_max, sum, one);
}

/* A claim that may stand there without our knowing its token. */
static void drop_random(struct ec2_ledger *l, const char *random)
{
    char token[EC2_TOKEN_MAX];

    snprintf(token, sizeof(token), "?%s", random);
    pthread_mutex_lock(&l->lock);
    add_own(l, token, 0)->dropped = true;
    pthread_mutex_unlock(&l->lock);
}

/* Until this Redis has been told what there is. */
static bool await_settled(struct ec2_ledger *l, int64_t deadline)
{
    bool more = true;

    pthread_mutex_lock(&l->lock);
    while (more && !l->settled && !l->ending)
        more = cond_wait_until(&l->changed, &l->lock, deadline);
    bool ready = l->settled && !l->ending;
    pthread_mutex_unlock(&l->lock);
    return ready;
}

int ec2_ledger_claim(struct ec2_ledger *l, int64_t cost, int64_t deadline,
                     char token[EC2_TOKEN_MAX], struct error *err)
{
    int64_t until = clock_mono_ms() + WAIT_MS;

    for (;;) {
        cleanup_reply redisReply *r = NULL;
        struct words w = {0};
        char random[17];

        if (!await_settled(l, until < deadline ? until : deadline) || !begin(l, &w, true))
            return not_ready(err);
        random_word(random);
        word(&w, l->holder);
        word(&w, random);
        number_word(&w, cost);
        number_word(&w, l->cfg->ec2_cost_max[0] ? config_money(l->cfg->ec2_cost_max) : 0);
        int rc = ask(l, &script_ec2_claim, &w, &r, err);
        if (rc < 0) {
            drop_random(l, random);
            return err_wrap(err, "claiming an instance");
        }
        if (says(r, "ceiling"))
            return above(l, reply_str(r, 1), cost, err);
        if (says(r, "ok")) {
            snprintf(token, EC2_TOKEN_MAX, "%s", reply_str(r, 1));
            pthread_mutex_lock(&l->lock);
            add_own(l, token, cost);
            pthread_mutex_unlock(&l->lock);
            return 0;
        }
        pthread_mutex_lock(&l->lock);
        l->settled = false;
        pthread_mutex_unlock(&l->lock);
        event_signal(l->poke_fd);
    }
}

void ec2_ledger_adopt(struct ec2_ledger *l, const char *token, int64_t cost)
{
    pthread_mutex_lock(&l->lock);
    if (strlen(token) < EC2_TOKEN_MAX)
        add_own(l, token, cost);
    pthread_mutex_unlock(&l->lock);
    event_signal(l->poke_fd);
}

void ec2_ledger_drop(struct ec2_ledger *l, const char *token)
{
    pthread_mutex_lock(&l->lock);
    struct own *o = find_own(l, token);
    if (o)
        o->dropped = true;
    pthread_mutex_unlock(&l->lock);
    event_signal(l->poke_fd);
}

/* ---- what is at EC2 ---- */

bool ec2_ledger_wants_look(struct ec2_ledger *l)
{
    pthread_mutex_lock(&l->lock);
    bool wants = l->scope && !l->settled && !l->ending;
    pthread_mutex_unlock(&l->lock);
    return wants && rlink_is_up(l->link);
}

int ec2_ledger_tell(struct ec2_ledger *l, const char *const *tokens, struct error *err)
{
    cleanup_reply redisReply *r = NULL;
    struct words w = {0};
    char fresh[17], ledger[40];
    int64_t number;

    if (!begin(l, &w, true))
        return not_ready(err);
    random_word(fresh);
    word(&w, fresh);
    for (size_t i = 0; tokens[i]; i++) {
        bool ours = ec2_token_parse(tokens[i], ledger, &number);
        word(&w, ours ? ledger : "-");
        number_word(&w, ours ? number : 0);
    }
    int rc = ask(l, &script_ec2_doubt, &w, &r, err);
    if (rc < 0)
        return rc;
    if (reply_str(r, 2)[0])
        log_event(LOG_ERROR_, "ec2.stands_still", "scope", l->scope, "reason", reply_str(r, 2),
                  "remedy", "docs/ec2.md, \"When Redis has lost its past\"", NULL);
    event_signal(l->poke_fd);
    return 0;
}

bool ec2_ledger_leads(struct ec2_ledger *l)
{
    pthread_mutex_lock(&l->lock);
    bool leads = l->leads;
    pthread_mutex_unlock(&l->lock);
    return leads;
}

void ec2_claims_done(struct ec2_claims *c)
{
    for (size_t i = 0; i < c->ct; i++)
        free(c->list[i].token);
    free(c->list);
    *c = (struct ec2_claims){0};
}

int ec2_ledger_claims(struct ec2_ledger *l, struct ec2_claims *ret, struct error *err)
{
    cleanup_reply redisReply *r = NULL;
    struct ec2_claims c = {0};

    int rc = look(l, "", &r, err);
    if (rc < 0)
        return rc;
    if (!says(r, "ok") || strcmp(reply_str(r, 3), l->holder) != 0)
        return err_set(err, ERR_TEMPORARY, EAGAIN, "another vmm looks after the instances");
    snprintf(c.id, sizeof(c.id), "%s", reply_str(r, 1));
    c.serial = strtoll(reply_str(r, 2), NULL, 10);
    snprintf(c.still, sizeof(c.still), "%s", reply_str(r, 5));
    snprintf(c.trust, sizeof(c.trust), " %s ", reply_str(r, 6));
    c.list = xcalloc(r->elements / 3 + 1, sizeof(*c.list));
    for (size_t i = 7; i + 2 < r->elements; i += 3) {
        const char *value = reply_str(r, i + 2), *holder = strchr(value, ' ');
        if (strcmp(reply_str(r, i), "c") != 0)
            continue;
        c.list[c.ct++] = (struct ec2_claim){xstrdup(reply_str(r, i + 1)), strtoll(value, NULL, 10),
                                            holder && strcmp(holder, " -") != 0};
    }
    *ret = c;
    return 0;
}

int ec2_ledger_reaped(struct ec2_ledger *l, int64_t strays, const char *const *over,
                      struct error *err)
{
    cleanup_reply redisReply *r = NULL;
    struct words w = {0};

    if (!begin(l, &w, true))
        return not_ready(err);
    word(&w, l->holder);
    number_word(&w, strays);
    for (size_t i = 0; over[i]; i++)
        word(&w, over[i]);
    return ask(l, &script_ec2_reaped, &w, &r, err);
}

/* ---- pace ---- */

static int64_t pace(struct ec2_ledger *l, int64_t ms, unsigned *ret_times)
{
    cleanup_reply redisReply *r = NULL;
    struct error err = ERROR_INIT;
    struct words w = {0};

    if (!begin(l, &w, false))
        return 0;
    if (ms > 0)
        number_word(&w, ms);
    else
        word(&w, "");
    if (ask(l, &script_ec2_pace, &w, &r, &err) < 0)
        return 0;
    if (ret_times)
        *ret_times = (unsigned)strtoul(reply_str(r, 2), NULL, 10);
    return strtoll(reply_str(r, 1), NULL, 10);
}

int64_t ec2_ledger_quiet(void *ledger)
{
    int64_t ms = pace(ledger, 0, NULL);

    return ms > 0 ? ms + clock_backoff_ms(0, PACE_MS, PACE_MS) : 0; /* not all at once after it */
}

int64_t ec2_ledger_throttled(void *ledger, unsigned times)
{
    unsigned all = 0;

    pace(ledger, 0, &all);
    int64_t ms = clock_backoff_ms(all > times ? all : times, PACE_MS, PACE_CAP_MS);
    pace(ledger, ms, NULL);
    return ms;
}

/* ---- life ---- */

static void on_up(void *arg)
{
    struct ec2_ledger *l = arg;

    event_signal(l->poke_fd);
}

int ec2_ledger_new(const struct config *cfg, const char *region, int wake_fd,
                   struct ec2_ledger **ret, struct error *err)
{
    struct ec2_ledger *l = xcalloc(1, sizeof(*l));
    struct rlink_options opt = {.url = cfg->redis_url,
                                .prefix = cfg->redis_prefix,
                                .timeout_ms = (unsigned)cfg->redis_timeout_ms,
                                .on_up = on_up,
                                .arg = l};
    char random[17];

    l->poke_fd = event_new();
    int r = rlink_start(&opt, &l->link, err);
    if (r < 0) {
        close(l->poke_fd);
        free(l);
        return r;
    }
    random_word(random);
    l->cfg = cfg;
    l->region = xstrdup(region);
    l->holder = xasprintf("%s#%s", cfg->vmm_name, random);
    l->wake_fd = wake_fd;
    pthread_mutex_init(&l->talk, NULL);
    pthread_mutex_init(&l->lock, NULL);
    cond_init(&l->changed);
    l->thread = thread_start(ledger_main, l);
    *ret = l;
    return 0;
}

void ec2_ledger_account(struct ec2_ledger *l, const char *account)
{
    pthread_mutex_lock(&l->lock);
    if (!l->scope)
        l->scope = xasprintf("%s:%s", l->region, account);
    pthread_mutex_unlock(&l->lock);
    event_signal(l->poke_fd);
}

void ec2_ledger_end(struct ec2_ledger *l)
{
    pthread_mutex_lock(&l->lock);
    l->ending = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    event_signal(l->poke_fd);
}

void ec2_ledger_free(struct ec2_ledger *l)
{
    cleanup_reply redisReply *r = NULL;
    struct error err = ERROR_INIT;
    struct words w = {0};

    if (!l)
        return;
    ec2_ledger_end(l);
    pthread_mutex_lock(&l->lock);
    l->ended = true;
    pthread_mutex_unlock(&l->lock);
    event_signal(l->poke_fd);
    pthread_join(l->thread, NULL);
    tell_dropped(l);
    if (begin(l, &w, false)) {
        word(&w, l->holder);
        ask(l, &script_ec2_leave, &w, &r, &err);
    }
    rlink_stop(l->link);
    forget_seen(l, true);
    free(l->seen);
    free(l->own);
    free(l->scope);
    free(l->region);
    free(l->holder);
    close(l->poke_fd);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->talk);
    free(l);
}
