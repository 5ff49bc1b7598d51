#ifndef MILONGA_CRASHPOINT_H
#define MILONGA_CRASHPOINT_H

/* Places at which tests/chaos lets a process die or stand still: before and after each command to
 * Redis, each step of a file on its way into the store, each step of a machine's life, each
 * callback and answer. `make CRASHPOINTS=1` builds them in; otherwise nothing of this is compiled.
 *
 * A point is named "WHERE.WHAT.WHEN" ("redis.commit.after"). In such a build the environment
 * decides:
 *
 *   MILONGA_CRASH=NAME,N,die|pause[,GATE]  at the N-th passing of NAME (counted while the file GATE
 *                                          exists, where one is given) this process sends itself
 *                                          SIGKILL or SIGSTOP; several plans have ";" between them
 *   MILONGA_CRASH_RECORD=FILE              appends the name of each point passed, a line each */

#ifdef MILONGA_CRASHPOINTS
#define CRASHPOINT(where, what, when) crashpoint_pass(where, what, when)
#else
#define CRASHPOINT(where, what, when) ((void)0)
#endif

/* Any thread. Does not return from the one at which the process dies. */
void crashpoint_pass(const char *where, const char *what, const char *when);

#endif
