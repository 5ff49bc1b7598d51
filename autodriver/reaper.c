#include "reaper.h"

#include "util.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A real uid that nobody has, from a range that systemd documents as unused, for the moment of
 * kill(-1) as the job: our real uid must not be the job's then, or the job could signal us back,
 * and not root's, or kill(-1) would reach all that root has. */
#define KILLER_UID 61183

/* A child that dies over and over must not keep us from looking at the clock. */
#define COLLECT_MAX 4096

void reaper_init(struct reaper *r, uid_t uid)
{
    memset(r, 0, sizeof(*r));
    r->uid = uid;
    r->is_init = getpid() == 1;
    if (!r->is_init)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

bool reaper_collect(struct reaper *r)
{
    for (int i = 0; i < COLLECT_MAX; i++) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);

        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            return true;
        if (pid == 0)
            return false;
        if (pid == r->main_pid) {
            r->main_done = true;
            r->main_status = status;
        } else if (r->killing && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
            r->killed++;
        }
    }
    return false;
}

/* kill(-1) as the job's uid. -1 when the machine has no room for our trick (KILLER_UID not mapped
 * in its user namespace). We stay root in the saved uid, so the way back is always open. */
static int kill_by_uid(uid_t uid)
{
    if (setresuid(KILLER_UID, uid, 0) < 0)
        return -1;
    kill(-1, SIGKILL);
    if (seteuid(0) < 0 || setresuid(0, 0, 0) < 0)
        abort(); /* cannot be: nothing below may run with half an identity */
    return 0;
}

struct process {
    pid_t pid, ppid;
    uid_t ruid, euid, suid;
    bool alive;
};

static int process_read(pid_t pid, struct process *ret)
{
    char path[64], text[2048];
    const char *state, *ppid, *uids, *threads;
    unsigned ruid, euid, suid;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    if (read_file(path, text, sizeof(text)) <= 0)
        return -1;
    state = strstr(text, "\nState:\t");
    ppid = strstr(text, "\nPPid:\t");
    uids = strstr(text, "\nUid:\t");
    threads = strstr(text, "\nThreads:\t");
    if (!state || !ppid || !uids || sscanf(uids, "\nUid:\t%u\t%u\t%u", &ruid, &euid, &suid) != 3)
        return -1;
    *ret = (struct process){
        .pid = pid, .ppid = atoi(ppid + 7), .ruid = ruid, .euid = euid, .suid = suid};
    /* A main thread that left while others go on looks like a zombie. */
    ret->alive = (state[8] != 'Z' && state[8] != 'X') || (threads && atoi(threads + 10) > 1);
    return 0;
}

/* The slow way, through /proc: for what kill_by_uid cannot reach (our children under another uid;
 * all, if `by_uid`), and to see whether processes of the job's uid live that are not our children,
 * as a cron or at daemon would start. Returns whether any such lives. */
static bool kill_by_walk(const struct reaper *r, bool by_uid)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    bool alive = false;

    if (!proc)
        return false;
    while ((entry = readdir(proc)) != NULL) {
        struct process p;
        bool mine, theirs;

        if (!isdigit((unsigned char)entry->d_name[0]) ||
            process_read(atoi(entry->d_name), &p) < 0 || !p.alive || p.pid == getpid())
            continue;
        theirs = p.ruid == r->uid || p.euid == r->uid || p.suid == r->uid;
        mine = p.ppid == getpid(); /* not reaped, so its pid cannot be another's */
        if (mine || (theirs && by_uid))
            kill(p.pid, SIGKILL);
        alive = alive || theirs;
    }
    closedir(proc);
    return alive;
}

bool reaper_kill(struct reaper *r)
{
    bool strangers = false;
    bool no_child;

    r->killing = true;
    if (r->is_init) {
        kill(-1, SIGKILL);
        kill_by_uid(
            r->uid); /* where the machine took CAP_KILL from us, the line above did nothing */
    } else {
        bool by_uid = kill_by_uid(r->uid) < 0;

        strangers = kill_by_walk(r, by_uid);
    }
    no_child = reaper_collect(r);
    return no_child && !strangers;
}

bool reaper_kill_wait(struct reaper *r, int64_t most_ms)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    int64_t end = now_ms() + most_ms;
    sigset_t child;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    while (!reaper_kill(r)) {
        if (now_ms() >= end)
            return false;
        sigtimedwait(&child, NULL, &pause);
    }
    return true;
}
