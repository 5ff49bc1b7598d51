#ifndef MILONGA_DISPATCHER_DUTY_H
#define MILONGA_DISPATCHER_DUTY_H

/* The thread that keeps jobs moving while this dispatcher leads. A pass: what is due goes back to
 * its queue, observe, judge vmms that are silent, make and execute a plan, and now and then the
 * pools' targets. It is woken by news; however many come during a pass, one more follows. Every
 * beat_ms there is a pass in any case, so a lost message costs that much. */

#include <stdbool.h>

struct dispatcher;
struct duty;

struct duty *duty_new(struct dispatcher *d);
void duty_start(struct duty *u);
void duty_stop(struct duty *u);
void duty_free(struct duty *u);

/* There is news; from any thread. With `gap`, the view of Redis was interrupted. */
void duty_look(struct duty *u, bool gap);

#endif
