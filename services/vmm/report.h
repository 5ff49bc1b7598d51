#ifndef MILONGA_VMM_REPORT_H
#define MILONGA_VMM_REPORT_H

/* The last word of an attempt, said until it is taken: feedback into the store, then the commit; or
 * the job given back. A store or a Redis that is away is waited for, with backoff, since what a job
 * has done is not to be done again for that; who is fenced, or is to leave at once, stops trying.
 */

#include "attempt.h"
#include "verdict.h"

/* What an attempt whose autodriver said its last word has used. */
struct report_usage {
    bool known;
    char how; /* 'e' it exited with `status`, 's' a signal of that number, '-' it was ended */
    unsigned status;
    uint64_t wall_ms, cpu_ms, peak_kb;
    uint64_t output_bytes; /* that it wrote, also those that were cut out */
};

struct report {
    struct attempt *a;
    const struct job *job; /* NULL when its body could not be read */
    const struct result *result;
    const struct feedback_steps *steps;
    const char *output; /* may be NULL when there is none */
    size_t output_len;
    struct report_usage usage;
};

void report_commit(const struct report *r);
void report_giveback(struct attempt *a, const struct result *x);

#endif
