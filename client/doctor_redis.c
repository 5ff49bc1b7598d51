/* What doctor finds in Redis: the server's settings and health, then what the services keep there.
 */

#include "client/doctor.h"

#include "base/clock.h"
#include "base/mem.h"
#include "wire/rsentinel.h"
#include "wire/rurl.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define VERSION_MIN  7
#define SLOW_MS      50
#define CLOCK_MS     2000
#define MEMORY_PCT   90
#define OLD_JOB_MS   (10 * 60 * 1000)
#define BEAT_LOOK_MS 50

static void free_replyp(redisReply **r)
{
    if (*r != NULL)
        freeReplyObject(*r);
}

#define cleanup_redis_reply __attribute__((cleanup(free_replyp)))

/* ---- connecting ---- */

static redisContext *connect_to(const struct rurl *u, int64_t timeout_ms)
{
    struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    redisContext *c = u->path != NULL ? redisConnectUnixWithTimeout(u->path, tv)
                                      : redisConnectWithTimeout(u->host, u->port, tv);

    if (c != NULL && c->err == 0)
        redisSetTimeout(c, tv);
    return c;
}

static redisReply *send_login(redisContext *c, const struct rurl *u)
{
    if (u->password != NULL && u->user != NULL)
        return redisCommand(c, "AUTH %s %s", u->user, u->password);
    if (u->password != NULL)
        return redisCommand(c, "AUTH %s", u->password);
    return redisCommand(c, "PING");
}

/* What one Sentinel says; nothing when it does not. */
static struct rsentinel_answer ask_sentinel(const struct rurl *u, size_t i, int64_t timeout_ms)
{
    const struct rurl at = {.host = u->sentinels[i].host, .port = u->sentinels[i].port};
    const struct rurl login = {.user = u->sentinel_user, .password = u->sentinel_password};
    redisContext *c = connect_to(&at, timeout_ms);
    struct rsentinel_answer a = {0};

    if (c != NULL && c->err == 0) {
        cleanup_redis_reply redisReply *in = send_login(c, &login);
        cleanup_redis_reply redisReply *r =
            in == NULL ? NULL : redisCommand(c, "SENTINEL get-master-addr-by-name %s", u->master);

        if (r != NULL && r->type == REDIS_REPLY_ARRAY && r->elements == 2)
            a = (struct rsentinel_answer){xstrdup(r->element[0]->str), atoi(r->element[1]->str)};
    }
    if (c != NULL)
        redisFree(c);
    return a;
}

/* Puts the master into *u; said when false. */
static bool ask_sentinels(struct doctor *d, struct rurl *u)
{
    struct rsentinel_answer answers[RURL_SENTINELS_MAX];
    size_t answered = 0;
    int found;

    for (size_t i = 0; i < u->sentinel_ct; i++) {
        answers[i] = ask_sentinel(u, i, d->cfg->redis_timeout_ms);
        if (answers[i].host != NULL)
            answered++;
        else
            doctor_warning(d, "redis.sentinel", "start it, or mend redis_url",
                           "the Sentinel at %s:%d names no master of %s", u->sentinels[i].host,
                           u->sentinels[i].port, u->master);
    }
    found = rsentinel_majority(answers, u->sentinel_ct);
    if (found >= 0) {
        u->host = xstrdup(answers[found].host);
        u->port = answers[found].port;
        doctor_ok(d, "redis.sentinels", "%zu of %zu name %s:%d", answered, u->sentinel_ct, u->host,
                  u->port);
    } else {
        doctor_fault(
            d, "redis.sentinels", "start them, or mend redis_url",
            "of %zu Sentinels more than half must name the same master of %s; %zu name one",
            u->sentinel_ct, u->master, answered);
    }
    for (size_t i = 0; i < u->sentinel_ct; i++)
        free(answers[i].host);
    return found >= 0;
}

/* Said when false. */
static bool log_in(struct doctor *d, redisContext *c, const struct rurl *u)
{
    cleanup_redis_reply redisReply *r = send_login(c, u);

    if (r != NULL && r->type != REDIS_REPLY_ERROR)
        return true;
    if (r == NULL)
        doctor_fault(d, "redis.reachable", "look whether it hangs: redis-cli --latency",
                     "Redis takes no commands: %s", c->errstr);
    else if (strncmp(r->str, "LOADING", 7) == 0)
        doctor_fault(d, "redis.loading", "wait", "Redis is still loading its data");
    else
        doctor_fault(d, "redis.login",
                     "put user and password into redis_url: redis://user:password@host:port",
                     "Redis refuses us: %s", r->str);
    return false;
}

/* ---- the server ---- */

/* The value of "name:value\r\n" in an INFO text, "" when it is not there. */
static void info_value(const char *info, const char *name, char out[64])
{
    cleanup_free char *line = xasprintf("\n%s:", name);
    const char *at = strstr(info, line);

    snprintf(out, 64, "%.*s", at != NULL ? (int)strcspn(at + strlen(line), "\r\n") : 0,
             at != NULL ? at + strlen(line) : "");
}

static void check_version(struct doctor *d, const char *info)
{
    char version[64];

    info_value(info, "redis_version", version);
    if (atoi(version) < VERSION_MIN)
        doctor_fault(d, "redis.version", "install a newer one",
                     "Redis is %s, %d or newer is needed", version, VERSION_MIN);
    else
        doctor_ok(d, "redis.version", "%s", version);
}

static void check_role(struct doctor *d, const char *info)
{
    char role[64];

    info_value(info, "role", role);
    if (strcmp(role, "slave") == 0)
        doctor_fault(d, "redis.role", "name the master in redis_url",
                     "this Redis is a replica, and nothing can be written to it");
    else
        doctor_ok(d, "redis.role", "%s", role);
}

static void check_durable(struct doctor *d, const char *info)
{
    char aof[64], status[64];

    info_value(info, "aof_enabled", aof);
    info_value(info, "aof_last_write_status", status);
    if (strcmp(aof, "1") != 0)
        doctor_warning(d, "redis.aof", "appendonly yes, appendfsync everysec in redis.conf",
                       "Redis has no append-only file: a crash of it loses accepted jobs");
    else if (strcmp(status, "ok") != 0)
        doctor_fault(d, "redis.aof", "make room on its disk",
                     "Redis can not write its append-only file (%s)", status);
    else
        doctor_ok(d, "redis.aof", "on");
}

static void check_memory(struct doctor *d, const char *info)
{
    char used[64], most[64], policy[64];
    long long max;

    info_value(info, "used_memory", used);
    info_value(info, "maxmemory", most);
    info_value(info, "maxmemory_policy", policy);
    max = atoll(most);
    if (strcmp(policy, "noeviction") != 0)
        doctor_fault(d, "redis.evicts", "maxmemory-policy noeviction in redis.conf",
                     "Redis throws keys away when it is full (%s)", policy);
    else
        doctor_ok(d, "redis.evicts", "it does not");
    if (max > 0 && atoll(used) * 100 > max * MEMORY_PCT)
        doctor_fault(d, "redis.memory", "raise maxmemory, or lower dead_max_jobs and max_live_jobs",
                     "Redis uses %lld of %lld MB", atoll(used) / 1000000, max / 1000000);
    else
        doctor_ok(d, "redis.memory", "%lld MB", atoll(used) / 1000000);
}

static void check_speed(struct doctor *d, redisContext *c)
{
    int64_t begun = clock_mono_ms(), took, wall = clock_wall_ms(), skew;
    cleanup_redis_reply redisReply *r = redisCommand(c, "TIME");

    took = clock_mono_ms() - begun;
    if (r == NULL || r->type != REDIS_REPLY_ARRAY || r->elements != 2)
        return;
    skew = atoll(r->element[0]->str) * 1000 + atoll(r->element[1]->str) / 1000 - wall;
    if (took > SLOW_MS)
        doctor_warning(d, "redis.slow",
                       "look for a busy host, a slow disk (appendfsync) or a far network",
                       "a round trip took %lld ms", (long long)took);
    else
        doctor_ok(d, "redis.slow", "a round trip took %lld ms", (long long)took);
    if (llabs(skew) > CLOCK_MS)
        doctor_warning(d, "redis.clock", "synchronise both (chrony, systemd-timesyncd)",
                       "the clock of Redis's host differs from ours by %lld ms", (long long)skew);
    else
        doctor_ok(d, "redis.clock", "agrees with ours");
}

static bool check_server(struct doctor *d, redisContext *c)
{
    cleanup_redis_reply redisReply *r = redisCommand(c, "INFO");
    cleanup_free char *info = NULL;

    if (r == NULL || r->type != REDIS_REPLY_STRING) {
        doctor_fault(d, "redis.login", "allow it the commands that docs/operations.md lists",
                     "Redis does not tell its INFO: %s",
                     r != NULL && r->type == REDIS_REPLY_ERROR ? r->str : c->errstr);
        return false;
    }
    info = xasprintf("\n%s", r->str);
    check_version(d, info);
    check_role(d, info);
    check_durable(d, info);
    check_memory(d, info);
    check_speed(d, c);
    return true;
}

void doctor_redis(struct doctor *d)
{
    struct error err = ERROR_INIT;
    struct rurl u;
    redisContext *c;

    if (rurl_parse(d->cfg->redis_url, &u, &err) < 0) {
        doctor_fault(d, "redis.url", "mend redis_url", "%s", err.msg);
        return;
    }
    if (u.sentinel_ct > 0 && !ask_sentinels(d, &u)) {
        rurl_done(&u);
        return;
    }
    c = connect_to(&u, d->cfg->redis_timeout_ms);
    if (c == NULL || c->err != 0) {
        doctor_fault(d, "redis.reachable", "start it, or mend redis_url",
                     "no Redis answers at %s%s%d: %s", u.path != NULL ? u.path : u.host,
                     u.path != NULL ? ", db " : ":", u.path != NULL ? u.db : u.port,
                     c != NULL ? c->errstr : "out of memory");
    } else if (log_in(d, c, &u) && check_server(d, c)) {
        redisReply *r = redisCommand(c, "SELECT %d", u.db);

        free_replyp(&r);

        doctor_state(d, c);
    }
    if (c != NULL)
        redisFree(c);
    rurl_done(&u);
}

/* ---- the services' state ---- */

static char *field(const struct doctor *d, redisContext *c, const char *key, const char *name)
{
    cleanup_redis_reply redisReply *r =
        redisCommand(c, "HGET %s:%s %s", d->cfg->redis_prefix, key, name);

    return xstrdup(r != NULL && r->type == REDIS_REPLY_STRING ? r->str : "");
}

static long long number(const struct doctor *d, redisContext *c, const char *command,
                        const char *key)
{
    cleanup_free char *full = xasprintf("%s:%s", d->cfg->redis_prefix, key);
    cleanup_redis_reply redisReply *r = redisCommand(c, "%s %s", command, full);

    return r != NULL && r->type == REDIS_REPLY_INTEGER ? r->integer : 0;
}

static void check_leader(struct doctor *d, redisContext *c)
{
    cleanup_free char *holder = field(d, c, "lead", "holder"), *beat = field(d, c, "lead", "beat");
    int64_t until = clock_mono_ms() + d->cfg->leader_lease_ms + d->cfg->beat_ms;

    while (holder[0] != '\0' && clock_mono_ms() < until) {
        cleanup_free char *now = field(d, c, "lead", "beat");

        if (strcmp(now, beat) != 0) {
            doctor_ok(d, "dispatcher.leads", "%s", holder);
            return;
        }
        poll(NULL, 0, BEAT_LOOK_MS);
    }
    doctor_fault(d, "dispatcher.leads", "start milonga-dispatcher, or look into its log", "%s",
                 holder[0] != '\0' ? "the dispatcher in charge gives no sign of life"
                                   : "no dispatcher is in charge");
}

static void check_vmm(struct doctor *d, redisContext *c, const char *name, unsigned *up)
{
    cleanup_free char *key = xasprintf("vmm:%s", name), *images = xasprintf("vmm:%s:img", name);
    cleanup_free char *state = field(d, c, key, "state"), *drain = field(d, c, key, "drain"),
                      *why = field(d, c, key, "why"), *version = field(d, c, key, "version");

    if (strcmp(state, "up") != 0) {
        if (strcmp(state, "lost") == 0)
            doctor_warning(d, "vmm.lost", "start milonga-vmm there, or look into its log",
                           "vmm %s is silent", name);
        return;
    }
    ++*up;
    if (drain[0] != '\0' && strcmp(drain, "0") != 0)
        doctor_warning(d, "vmm.drains", "mend what it says, or: milonga resume VMM",
                       "vmm %s takes no jobs: %s", name, why[0] != '\0' ? why : "it was told so");
    if (number(d, c, "HLEN", images) == 0)
        doctor_fault(d, "vmm.no_image",
                     "give it one: milonga images push FILE NAME, or docker pull there",
                     "vmm %s has no image", name);
    if (strcmp(version, MILONGA_VERSION) != 0)
        doctor_warning(d, "vmm.version", "finish the upgrade", "vmm %s is %s, this program is %s",
                       name, version, MILONGA_VERSION);
}

static void check_vmms(struct doctor *d, redisContext *c)
{
    cleanup_redis_reply redisReply *r = redisCommand(c, "SMEMBERS %s:vmms", d->cfg->redis_prefix);
    unsigned up = 0;

    for (size_t i = 0; r != NULL && r->type == REDIS_REPLY_ARRAY && i < r->elements; i++)
        check_vmm(d, c, r->element[i]->str, &up);
    if (up == 0)
        doctor_fault(d, "vmm.none", "start milonga-vmm, or look into its log",
                     "no vmm is up: jobs are accepted and wait");
    else
        doctor_ok(d, "vmm.none", "%u are up", up);
}

static void check_jobs(struct doctor *d, redisContext *c)
{
    cleanup_redis_reply redisReply *r =
        redisCommand(c, "ZRANGE %s:alive 0 0 WITHSCORES", d->cfg->redis_prefix);
    long long live = number(d, c, "ZCARD", "alive"), outbox = number(d, c, "ZCARD", "outbox");
    int64_t age = 0;

    if (r != NULL && r->type == REDIS_REPLY_ARRAY && r->elements == 2)
        age = clock_wall_ms() - (int64_t)strtod(r->element[1]->str, NULL);
    if (age > OLD_JOB_MS)
        doctor_warning(d, "jobs.old", "milonga why ID tells what it waits for",
                       "job %s was accepted %lld min ago and is not finished", r->element[0]->str,
                       (long long)age / 60000);
    else
        doctor_ok(d, "jobs.old", "%lld are live", live);
    if (live * 10 > (long long)d->cfg->max_live_jobs * 9)
        doctor_warning(d, "jobs.many", "add workers, or raise max_live_jobs",
                       "%lld jobs are live, more than %lld are refused", live,
                       (long long)d->cfg->max_live_jobs);
    if (outbox > 0) {
        cleanup_redis_reply redisReply *first =
            redisCommand(c, "ZRANGE %s:outbox 0 0", d->cfg->redis_prefix);
        cleanup_free char *key = xasprintf(
            "ob:%s", first != NULL && first->type == REDIS_REPLY_ARRAY && first->elements > 0
                         ? first->element[0]->str
                         : "");
        cleanup_free char *last = field(d, c, key, "last"), *tries = field(d, c, key, "tries");

        if (atoi(tries) > 2)
            doctor_warning(d, "callbacks.fail",
                           "milonga callbacks lists them; look whether the frontend is up",
                           "callbacks fail, %lld wait; the last answer: %s", outbox, last);
    }
}

void doctor_state(struct doctor *d, redisContext *c)
{
    check_leader(d, c);
    check_vmms(d, c);
    check_jobs(d, c);
}
