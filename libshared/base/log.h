#ifndef MILONGA_LOG_H
#define MILONGA_LOG_H

/* Structured logging to stderr, one line an event, as logfmt text or JSON.
 *
 *   log_event(LOG_INFO_, "job.committed", "job", LOG_NUM(id), "attempt", LOG_NUM(n), NULL);
 *
 * The event is `noun.verb`; keys are lower-case names; values are strings (use the LOG_* helpers
 * for numbers). Values are escaped and cut at 512 bytes; a line is at most PIPE_BUF bytes, and one
 * that had to leave pairs out says cut=yes. Never a key, never a student's bytes: callers pass
 * names, ids, sizes and reasons only. Safe from any thread: each line is one write(2). */

#include <stdint.h>

enum log_level { LOG_DEBUG_ = 0, LOG_INFO_, LOG_WARN_, LOG_ERROR_ };

/* Process-wide, set once at start before any thread. `service` must live for ever. */
void log_setup(const char *service, enum log_level level, int json);
enum log_level log_level_now(void);

/* 0 or -EINVAL; accepts debug, info, warn, error in any case. */
int log_level_parse(const char *text, enum log_level *ret);

/* key, value pairs, ended by NULL. A NULL value prints as "". */
void log_event(enum log_level level, const char *event, ...) __attribute__((sentinel));

/* Numbers as text, in one of a few buffers of the calling thread (good for 16 uses in a call). */
const char *log_num(long long v);
#define LOG_NUM(v) log_num((long long)(v))

#endif
