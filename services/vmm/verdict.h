#ifndef MILONGA_VMM_VERDICT_H
#define MILONGA_VMM_VERDICT_H

/* What comes of an attempt: from the autodriver's final record, or from what went wrong, to a
 * verdict and its words (spec/tango 2.4, 3.1, 3.2), or to another try. Pure functions of their
 * arguments. */

#include "base/buf.h"
#include "base/err.h"
#include "wire/feedback.h"
#include "wire/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum result_kind {
    RESULT_COMMIT,   /* the job is over */
    RESULT_GIVEBACK, /* this attempt is; the job goes back to the queue */
    RESULT_DROP,     /* it is not ours any more */
};

struct result {
    enum result_kind kind;
    enum job_verdict verdict;
    char message[256];   /* header line and last line of the trace */
    char lines[512];     /* what stands before the output: "Autodriver: ...\n", perhaps several */
    const char *counter; /* of `stats`; NULL none */
    bool gave_up;        /* feedback in the give-up form */
    bool charge;         /* giveback: counts as a try that infrastructure has spoilt */
    char why[400];       /* giveback: for the trace; gave_up: the reason */
    uint64_t head;       /* bytes before the gap, when elided > 0 */
    uint64_t elided;
};

struct verdict_context {
    uint32_t timeout_s;
    uint32_t memory_mb;
    uint64_t disk_mb;
    bool oom; /* the kernel killed a process of the job at its memory limit */
};

/* The final record of an autodriver (frame X). -EPROTO when it is none that this version knows, or
 * one that says that the machine is at fault (lease lost): then there is nothing to commit. Sets
 * steps->run_job. */
int verdict_final(const char *text, size_t len, const struct verdict_context *c,
                  struct feedback_steps *steps, struct result *ret, struct error *err);

void verdict_timed_out(const struct verdict_context *c, struct result *ret);
void verdict_memory(const struct verdict_context *c, int status, struct result *ret);
void verdict_disk(const struct verdict_context *c, struct result *ret);
void verdict_cancelled(struct result *ret);
/* The backend or vmm refuses the job as it is: a limit or image that cannot be had. */
void verdict_refused(const char *why, struct result *ret);
/* Infrastructure has spoilt as many tries as there are. */
void verdict_gave_up(const char *why, struct result *ret);

/* The whole feedback; returns where in it the output begins (with the gap, it is all from there
 * on). Times are wall ms; output is what the job wrote, with the gap where r says.
 */
size_t verdict_feedback(const struct result *r, const struct feedback_steps *steps,
                        const struct job *job, const char *id, int64_t received_ms, int64_t now_ms,
                        unsigned tries, const char *output, size_t output_len, struct buf *out);

#endif
