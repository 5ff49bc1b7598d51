#include "verdict.h"

#include "wire/frame.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NORMAL   "Success: Autodriver returned normally"
#define OS_ERROR "Error: OS error while running job on VM"
#define GAP      "\n...[excess bytes elided]...\n"

static void commit(struct result *r, enum job_verdict verdict, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void commit(struct result *r, enum job_verdict verdict, const char *fmt, ...)
{
    r->kind = RESULT_COMMIT;
    r->verdict = verdict;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->message, sizeof(r->message), fmt, ap);
    va_end(ap);
    /* One line, and without what Autolab splits a trace line at. */
    for (char *s = r->message; *s; s++)
        if (*s == '|' || (unsigned char)*s < ' ')
            *s = ' ';
}

static void line(struct result *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(struct result *r, const char *fmt, ...)
{
    size_t at = strlen(r->lines);
    if (at + 16 > sizeof(r->lines))
        return;
    int n = snprintf(r->lines + at, sizeof(r->lines) - at, "Autodriver: ");
    at += (size_t)n;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->lines + at, sizeof(r->lines) - at - 1, fmt, ap);
    va_end(ap);
    for (char *s = r->lines + at; *s; s++)
        if ((unsigned char)*s < ' ')
            *s = ' ';
    strcat(r->lines, "\n");
}

void verdict_timed_out(const struct verdict_context *c, struct result *r)
{
    commit(r, VERDICT_TIMED_OUT, "Error: Job timed out after %u seconds", c->timeout_s);
    line(r, "Job timed out after %u seconds", c->timeout_s);
    r->counter = "runjob_timeouts";
}

void verdict_memory(const struct verdict_context *c, int status, struct result *r)
{
    commit(r, VERDICT_MEMORY, "Error: Job exceeded its memory limit of %u MB", c->memory_mb);
    line(r, "Job exited with status %d", status);
    if (status != 0)
        line(r, "Job exceeded its memory limit of %u MB and was killed", c->memory_mb);
    else /* it went on without it */
        line(r, "Job exceeded its memory limit of %u MB and a program of it was killed",
             c->memory_mb);
    r->counter = "runjob_errors";
}

void verdict_disk(const struct verdict_context *c, struct result *r)
{
    commit(r, VERDICT_DISK, "Error: Job exceeded its disk limit of %llu MB",
           (unsigned long long)c->disk_mb);
    line(r, "Job exceeded its disk limit of %llu MB and was killed",
         (unsigned long long)c->disk_mb);
    r->counter = "runjob_errors";
}

void verdict_cancelled(struct result *r)
{
    commit(r, VERDICT_CANCELLED, "Error: Job was cancelled");
    line(r, "Job was cancelled");
}

void verdict_refused(const char *why, struct result *r)
{
    commit(r, VERDICT_FAILED, "Error: Job refused: %s", why);
    line(r, "Job could not be run as asked: %s", why);
    r->counter = "runjob_errors";
}

void verdict_gave_up(const char *why, struct result *r)
{
    commit(r, VERDICT_INFRASTRUCTURE, "Internal error: %s", why);
    snprintf(r->why, sizeof(r->why), "%s", why);
    r->gave_up = true;
}

static void could_not_run(const char *reason, size_t len, const char *fallback, struct result *r)
{
    commit(r, VERDICT_FAILED, OS_ERROR);
    line(r, "%.*s", (int)(len ? len : strlen(fallback)), len ? reason : fallback);
    r->counter = "runjob_errors";
}

static bool is(const char *value, int len, const char *word)
{
    return len == (int)strlen(word) && memcmp(value, word, (size_t)len) == 0;
}

int verdict_final(const char *text, size_t len, const struct verdict_context *c,
                  struct feedback_steps *steps, struct result *r, struct error *err)
{
    const char *outcome = "", *reason = "";
    uint64_t status = 0;
    int n = frame_field(text, len, "outcome", &outcome);
    int reason_len = frame_field(text, len, "reason", &reason);
    size_t why = reason_len > 0 ? (size_t)reason_len : 0;
    frame_field_u64(text, len, "status", &status);
    frame_field_u64(text, len, "head", &r->head);
    frame_field_u64(text, len, "elided", &r->elided);
    steps->run_job = 0;
    if (is(outcome, n, "exited") || is(outcome, n, "signaled")) {
        bool by_signal = is(outcome, n, "signaled");
        int shown = by_signal ? 128 + (int)(status & 127) : (int)(status & 0xff);
        if (c->oom) {
            verdict_memory(c, shown, r);
            return 0;
        }
        commit(r, VERDICT_SUCCESS, NORMAL);
        line(r, "Job exited with status %d", shown);
        if (by_signal)
            line(r, "Job was killed by signal %d", (int)(status & 127));
        return 0;
    }
    if (is(outcome, n, "timed_out")) {
        steps->run_job = 2;
        verdict_timed_out(c, r);
        if (c->oom)
            line(r, "A program of it was killed at its memory limit of %u MB", c->memory_mb);
        return 0;
    }
    if (is(outcome, n, "cancelled")) {
        verdict_cancelled(r);
        return 0;
    }
    steps->run_job = 3;
    if (is(outcome, n, "no_make") || is(outcome, n, "exec_failed")) {
        could_not_run(reason, why, "Error executing make", r);
        return 0;
    }
    return err_set(err, ERR_TEMPORARY, EPROTO, "the autodriver ended the job: %.*s%s%.*s",
                   n > 0 ? n : 0, outcome, why ? ": " : "", (int)why, reason);
}

/* ---- feedback ---- */

size_t verdict_feedback(const struct result *r, const struct feedback_steps *steps,
                        const struct job *job, const char *id, int64_t received_ms, int64_t now_ms,
                        unsigned tries, const char *output, size_t output_len, struct buf *out)
{
    size_t begins;

    if (r->gave_up) {
        feedback_received(out, job->name, id, received_ms);
        feedback_gave_up(out, now_ms, tries, steps, r->why);
        feedback_output_follows(out, now_ms);
    } else {
        feedback_render(out, job->name, id, received_ms, now_ms, r->message, true);
    }
    buf_appends(out, r->lines);
    begins = out->len;
    if (r->elided > 0 && r->head <= output_len) {
        buf_append(out, output, (size_t)r->head);
        buf_appends(out, GAP);
        output += r->head;
        output_len -= (size_t)r->head;
    }
    buf_append(out, output, output_len);
    return begins;
}
