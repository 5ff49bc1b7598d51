#ifndef AUTODRIVER_REAPER_H
#define AUTODRIVER_REAPER_H

/* Keeps hold of everything that a job starts, and ends it. Both modes use it.
 *
 * Nothing can leave: as pid 1 of a pid namespace we inherit every orphan in it, else as a child
 * subreaper every orphan below us, whatever it did with sessions, groups or double forks. So
 * "waitpid says ECHILD" is the proof that the job is over.
 *
 * Nothing can outrun it either: the signal goes to all at once, by one kill(-1) that the kernel
 * does under the lock that fork takes, so a fork bomb has no gap to slip through; SIGKILL does not
 * ask stopped processes. Not as pid 1, kill(-1) would hit the whole host, so it is sent with the
 * job's uid as our effective one, which reaches what belongs to that uid and nothing else. That uid
 * must be for one job at a time. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct reaper {
    uid_t uid;      /* the job's */
    bool is_init;   /* pid 1 of a pid namespace */
    pid_t main_pid; /* 0 before it was started */
    bool main_done;
    int main_status; /* as waitpid gives it, once main_done */
    bool killing;
    unsigned killed; /* processes other than the main one that the killing ended */
};

void reaper_init(struct reaper *r, uid_t uid);

/* Reaps what is dead. True when no child is left. */
bool reaper_collect(struct reaper *r);

/* One round of killing everything, and of reaping. True when nothing is left. To be called again on
 * SIGCHLD and after some milliseconds until it is. */
bool reaper_kill(struct reaper *r);

/* Rounds until nothing is left, or for so long. SIGCHLD must be blocked. */
bool reaper_kill_wait(struct reaper *r, int64_t most_ms);

#endif
