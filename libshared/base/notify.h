#ifndef MILONGA_NOTIFY_H
#define MILONGA_NOTIFY_H

/* Telling the service manager how we are (sd_notify(3)); nothing where there is none. */

/* `state` is lines of NAME=VALUE, such as "READY=1". May be called from any thread; errors do not
 * matter to a service and are swallowed. */
void notify_state(const char *state);

#endif
