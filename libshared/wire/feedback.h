#ifndef MILONGA_FEEDBACK_H
#define MILONGA_FEEDBACK_H

/* The text that a student sees (spec/tango 3.1): lines of the form "Autograder [ctime local]:
 * TEXT", then perhaps the output of the autograder, whose last line must stay the last line of all.
 * Whoever closes a job writes it by these functions, so that there is one form whether a vmm ran
 * the job or the dispatcher closed it in the queue. Times are wall milliseconds.
 *
 *   Autograder [Tue Nov 24 07:08:20 2026]: Received job myjob:7
 *   Autograder [Tue Nov 24 07:08:22 2026]: Success: Autodriver returned normally
 *   Autograder [Tue Nov 24 07:08:22 2026]: Here is the output from the autograder:
 *   ---
 *
 * Each returns 0, or -ENOSPC at the bound of `out`, which is then as it was. */

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

/* The header block: the first line, the line with `message` and, when output follows, the two lines
 * before it. Control characters in `message` become blanks: it is one line. */
int feedback_render(struct buf *out, const char *job_name, const char *id, int64_t received_ms,
                    int64_t finished_ms, const char *message, bool output_follows);

/* The pieces of it, for whoever has more lines to say. */
int feedback_received(struct buf *out, const char *job_name, const char *id, int64_t received_ms);
int feedback_line(struct buf *out, int64_t at_ms, const char *text);
int feedback_output_follows(struct buf *out, int64_t at_ms);

/* The give-up form, in Tango's words and its spelling, which frontends may look for; the status of
 * a step that was not tried is FEEDBACK_NO_STATUS. `why` is a further line. Without "output
 * follows". */
#define FEEDBACK_NO_STATUS (-1000)
struct feedback_steps {
    int wait_vm, copy_in, run_job, copy_out;
};
int feedback_gave_up(struct buf *out, int64_t at_ms, unsigned tries,
                     const struct feedback_steps *steps, const char *why);

#endif
