#ifndef MILONGA_CLOCK_H
#define MILONGA_CLOCK_H

/* Time. Deadlines and durations are monotonic milliseconds; what people read is wall time in
 * milliseconds since 1970 UTC. Nothing correct hangs on wall time. */

#include <stddef.h>
#include <stdint.h>

int64_t clock_mono_ms(void);
int64_t clock_wall_ms(void);

/* Milliseconds until a monotonic deadline, for poll(2): never negative, INT_MAX at most; -1 when
 * the deadline is CLOCK_NEVER. */
#define CLOCK_NEVER INT64_MAX
int clock_until_ms(int64_t deadline_mono_ms);

/* C ctime form without the newline, "Tue Nov 24 07:08:20 2026" (spec/tango 2.3); buf of >= 32. */
void clock_ctime_utc(int64_t wall_ms, char *buf, size_t size);
void clock_ctime_local(int64_t wall_ms, char *buf, size_t size);

/* A delay with backoff and full jitter, the one place for it: uniform in
 * [base/2, min(cap, base * 2^tries)], milliseconds. */
int64_t clock_backoff_ms(unsigned tries, int64_t base_ms, int64_t cap_ms);

#endif
