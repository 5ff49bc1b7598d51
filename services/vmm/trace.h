#ifndef MILONGA_VMM_TRACE_H
#define MILONGA_VMM_TRACE_H

/* An attempt's progress on its way to Redis: state and lines of the trace (docs/protocol.md), sent
 * without waiting and sent again when the connection was lost. A fence met on the way stops the
 * attempt. */

#include "attempt.h"

struct trace *trace_new(void);
void trace_free(struct trace *t);

/* Adds a line; it goes with the next trace_send. `arg` is cut at a newline or '|' (spec/tango 2.3).
 */
void trace_add(struct attempt *a, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Sends what there is, and the new state (NULL: as it is). */
void trace_send(struct attempt *a, const char *state);
/* Before the last word: sends what could not be sent before, and waits for it. When it fails, all
 * of it is kept. */
int trace_settle(struct attempt *a, struct error *err);

#endif
