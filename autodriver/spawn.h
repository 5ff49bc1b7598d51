#ifndef AUTODRIVER_SPAWN_H
#define AUTODRIVER_SPAWN_H

/* Starts the job's main process: from a privileged parent to an unprivileged program that holds
 * nothing of ours. Both modes use it. What it guarantees before exec:
 *
 *   - its own session and process group, no controlling terminal, signals as if freshly booted
 *   - stdin at end of file, stdout and stderr `out_fd`, every other descriptor closed
 *   - limits set (never above the hard limits that we have ourselves)
 *   - real, effective and saved ids and groups of the account, no capability in any set but the
 *     bounding one, and no_new_privs, so that no setuid program brings any back
 *   - killed with us (PDEATHSIG), and a better victim than us for the OOM killer
 *
 * It cannot ptrace or signal the parent: the ids differ, and the parent is not dumpable
 * (autodriver_harden in main.c). */

#include <stdint.h>
#include <sys/types.h>

struct account;

/* 0: as it is in the machine */
struct job_limits {
    uint64_t nproc;
    uint64_t fsize_bytes;
    uint64_t nofile;
    uint64_t core_bytes; /* always set, 0 is none */
};

struct spawn_spec {
    const struct account *account;
    struct job_limits limits;
    int dir_fd; /* becomes the working directory */
    int out_fd;
    mode_t umask;
    char *const *argv;
    char *const *envp;
    const char *path; /* where argv[0] is looked for when it holds no slash */
};

/* What a child was doing when it failed. */
enum spawn_step {
    SPAWN_STEP_STDIO = 1,
    SPAWN_STEP_DIR,
    SPAWN_STEP_NPROC,
    SPAWN_STEP_FSIZE,
    SPAWN_STEP_LIMIT,
    SPAWN_STEP_GROUPS,
    SPAWN_STEP_GID,
    SPAWN_STEP_UID,
    SPAWN_STEP_CAPS,
    SPAWN_STEP_EXEC,
};

struct spawn_failure {
    int32_t step;  /* enum spawn_step */
    int32_t error; /* errno */
};

/* Forks. Returns the pid, or -errno. *ret_status_fd (the caller closes it) ends when exec
 * succeeded, or holds one struct spawn_failure, after which the child exits with 127. */
pid_t spawn(const struct spawn_spec *spec, int *ret_status_fd);

/* Reads what the status descriptor tells, waiting for it if it must: 1 the program runs, 0 *ret is
 * filled, -EAGAIN not known yet (a non-blocking descriptor). */
int spawn_result(int status_fd, struct spawn_failure *ret);

#endif
