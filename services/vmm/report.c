#include "report.h"

#include "agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "scripts.h"
#include "sync.h"
#include "trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RETRY_BASE_MS  100
#define RETRY_CAP_MS   5000
#define STORE_CAP_MS   30000
#define LEAVE_TRIES    3 /* of one that is to hand back and leave */
#define FEEDBACK_SLACK 8192

/* Nobody wishes to hear it any more. */
static bool give_up(const struct attempt *a, unsigned tries)
{
    enum attempt_kill k = attempt_killed(a);
    return k == KILL_FENCED || (k == KILL_HANDBACK && tries >= LEAVE_TRIES);
}

/* What was signalled before has been heard, and may not be what is given up for. */
static void pause_before(struct attempt *a, unsigned tries, int64_t cap_ms)
{
    event_clear(a->stop_fd);
    if (give_up(a, tries + 1))
        return;
    int64_t until =
        clock_mono_ms() + clock_backoff_ms(tries < 16 ? tries : 16, RETRY_BASE_MS, cap_ms);
    /* The connection's return is an event; an error that Redis or the store answers has none. */
    if (!rlink_is_up(a->v->link) && !agent_wait_up(a->v->agent, until))
        return;
    event_wait(a->stop_fd, until);
}

/* True when Redis has taken it; false when it is fenced or nobody waits. Lines of the trace go
 * before it, also those that were under way when the connection went: their calls have failed by
 * the time that ours has. */
static bool tell(struct attempt *a, const struct script *s, int argc, const char *const *argv)
{
    for (unsigned tries = 0; !give_up(a, tries); tries++) {
        struct error err = ERROR_INIT;
        cleanup_reply redisReply *r = NULL;
        if (trace_settle(a, &err) == 0 &&
            rlink_eval(a->v->link, s, argc, argv, NULL, &r, &err) == 0) {
            if (strcmp(reply_word(r), "ok") == 0)
                return true;
            if (strcmp(reply_word(r), "fenced") == 0) {
                /* Or the answer to an earlier try was lost: then it was taken. */
                log_event(LOG_INFO_, "attempt.fenced", "job", a->id, "token", a->token, "script",
                          s->name, NULL);
                return false;
            }
            err_set(&err, ERR_BUG, EPROTO, "unknown answer \"%s\"", reply_word(r));
        }
        log_event(LOG_WARN_, "attempt.untold", "job", a->id, "script", s->name, "reason", err.msg,
                  NULL);
        pause_before(a, tries, RETRY_CAP_MS);
    }
    return false;
}

static bool store_feedback(const struct report *r, struct store_info *info, size_t *begins)
{
    static const struct job nameless = {.name = (char *)"?"};
    struct attempt *a = r->a;
    const struct job *job = r->job ? r->job : &nameless;
    struct buf text = BUF_INIT(r->output_len + FEEDBACK_SLACK);
    int64_t now = clock_wall_ms();
    *begins =
        verdict_feedback(r->result, r->steps, job, a->id, r->job ? job->accepted_ms : now, now,
                         a->charged + 1, r->output ? r->output : "", r->output_len, &text);
    bool stored = false;
    for (unsigned tries = 0; !stored && !give_up(a, tries); tries++) {
        struct error err = ERROR_INIT;
        stored = store_put(a->v->store, text.data, text.len, info, &err) == 0;
        if (stored)
            break;
        log_event(LOG_ERROR_, "feedback.not_stored", "job", a->id, "reason", err.msg, NULL);
        pause_before(a, tries + 2, STORE_CAP_MS);
    }
    buf_free(&text);
    return stored;
}

/* P:j:ID `us` */
static void format_usage(const struct report_usage *u, char *out, size_t size)
{
    *out = '\0';
    if (u->known)
        snprintf(out, size, "%c %u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, u->how, u->status,
                 u->wall_ms, u->cpu_ms, u->peak_kb, u->output_bytes);
}

void report_commit(const struct report *r)
{
    struct attempt *a = r->a;
    struct store_info info;
    size_t begins = 0;
    if (!store_feedback(r, &info, &begins))
        return;
    char now[24], size[24], at[24], used[120];
    format_usage(&r->usage, used, sizeof(used));
    snprintf(now, sizeof(now), "%lld", (long long)clock_wall_ms());
    snprintf(size, sizeof(size), "%llu", (unsigned long long)info.size);
    snprintf(at, sizeof(at), "%zu", begins);
    const char *argv[10] = {a->id,
                            a->token,
                            now,
                            job_verdict_name(r->result->verdict),
                            info.sha256,
                            size,
                            r->result->message,
                            at,
                            used,
                            r->result->counter};
    tell(a, &script_commit, r->result->counter ? 10 : 9, argv);
}

void report_giveback(struct attempt *a, const struct result *x)
{
    const struct config *c = a->v->cfg;
    char now[24], due[24] = "0";
    int64_t at = clock_wall_ms();
    unsigned before = a->tries > 0 ? a->tries - 1 : 0; /* charged or not */
    enum attempt_kill k = attempt_killed(a);
    snprintf(now, sizeof(now), "%lld", (long long)at);
    /* One that is handed back has nothing to wait for. */
    if (k == KILL_NONE || k == KILL_CANCEL)
        snprintf(due, sizeof(due), "%lld",
                 (long long)(at + clock_backoff_ms(before < 16 ? before : 16, c->retry_base_ms,
                                                   c->retry_cap_ms)));
    char why[sizeof(x->why) + 32];
    snprintf(why, sizeof(why), "Internal error: %s", x->why);
    why[strcspn(why, "\n|")] = '\0';
    const char *argv[8] = {a->id,    a->token, now,       due, x->charge ? "1" : "0",
                           "failed", why,      x->counter};
    tell(a, &script_giveback, x->counter ? 8 : 7, argv);
}
