/* The life of a machine, as a state machine around one poll.
 *
 *     HEADER --H--> LOADING --E--> LOADED --G--> STARTING --exec--> RUNNING
 *                                                    |                 | main process over,
 * deadline, | exec failed     | cancel, lease or pipe lost v                 v KILLING
 * <-----------+ | no child is left
 *                                                    v
 *                                                  DRAINING --pipe empty--> TAIL --X--> LEAVING -->
 * exit
 *
 * KILLING is entered from wherever the job ended, well or not, so that nothing it left behind
 * outlives its main process and every byte that is reported was written before the report. C, an
 * end of the pipe and a lost lease skip ahead to it from any earlier state.
 *
 * Nothing in the loop blocks but the unpacking of files. The clocks are deadlines in monotonic
 * milliseconds, and the nearest is the timeout of the poll. */

#include "native.h"

#include "account.h"
#include "group.h"
#include "header.h"
#include "link.h"
#include "output.h"
#include "place.h"
#include "reaper.h"
#include "spawn.h"
#include "unpack.h"
#include "untar.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The kernel may take its time with a process in uninterruptible sleep; after this it is reported.
 */
#define KILL_MOST_MS  5000
#define KILL_AGAIN_MS 10
/* How long a pipe that nobody may be reading is given to take the last frames. */
#define LEAVE_MOST_MS 2000
/* Bytes of output between two looks at everything else. */
#define READ_BURST (512 * 1024)

enum state { HEADER, LOADING, LOADED, STARTING, RUNNING, KILLING, DRAINING, TAIL, LEAVING };

struct native {
    enum state state;
    struct link link;
    struct header header;
    struct account account;
    struct place place;
    struct untar untar;
    struct unpack unpack;
    struct reaper reaper;
    struct output output;
    int signal_fd;
    int status_fd; /* of spawn(), while STARTING; else -1 */
    int job_fd;    /* what the job writes; -1 when it ended or was never there */

    bool out_of_touch; /* pipe or lease lost: nobody waits for the final record */
    bool failed;       /* a Q frame is on its way */
    const char *outcome;
    int status;
    struct why reason; /* empty: the outcome says it all */

    int64_t frame_at_ms; /* the last frame */
    int64_t started_at_ms;
    int64_t ended_at_ms;
    int64_t deadline_ms;   /* of the job */
    int64_t cpu_before_ms; /* of children that were not the job's: a shell became us by exec */
    int64_t kill_again_ms;
    int64_t kill_end_ms;
    int64_t leave_end_ms;
};

/* ---- Ways to an end ---- */

static void leave(struct native *n)
{
    n->state = LEAVING;
    n->leave_end_ms = n->out_of_touch ? now_ms() + LEAVE_MOST_MS : INT64_MAX;
}

/* It cannot go on and no job was run: says why. */
static void give_up(struct native *n, const struct why *why)
{
    link_send_text(&n->link, FRAME_ERROR, why->text);
    n->failed = true;
    leave(n);
}

/* The job is over, for the first reason that is given. */
static void end_job(struct native *n, const char *outcome, int status)
{
    int64_t now = now_ms();

    if (n->state >= KILLING)
        return;
    n->outcome = outcome;
    n->status = status;
    n->ended_at_ms = now;
    if (n->status_fd >= 0) {
        close(n->status_fd);
        n->status_fd = -1;
    }
    if (n->state < STARTING) {
        n->started_at_ms = now;
        n->state = TAIL; /* nothing to kill, nothing to drain */
        return;
    }
    n->state = KILLING;
    n->kill_again_ms = now;
    n->kill_end_ms = now + KILL_MOST_MS;
}

static void lose_touch(struct native *n, const char *outcome)
{
    if (n->out_of_touch)
        return;
    n->out_of_touch = true;
    if (n->state == LEAVING)
        n->leave_end_ms = now_ms() + LEAVE_MOST_MS;
    else
        end_job(n, outcome, 0);
}

/* ---- Frames in ---- */

static void on_header(struct native *n, const uint8_t *data, uint32_t len)
{
    struct untar_sink sink;
    struct why why;

    if (header_parse(&n->header, (const char *)data, len, &why) < 0) {
        give_up(n, &why);
        return;
    }
    if (account_find("/etc", n->header.user, &n->account) < 0)
        account_fixed(n->header.user, n->header.uid, &n->account);
    if (n->account.uid == 0) {
        why_set(&why, "a job is not run as root");
        give_up(n, &why);
        return;
    }
    if (place_make(&n->place, &n->account, n->header.dir, &why) < 0) {
        give_up(n, &why);
        return;
    }
    output_init(&n->output, n->header.output_bytes);
    unpack_init(&n->unpack, n->place.dir_fd, n->account.uid, n->account.gid, &sink);
    untar_init(&n->untar, &sink);
    n->state = LOADING;
}

static void on_tar_end(struct native *n)
{
    struct why why;

    if (untar_finish(&n->untar, &why) < 0 || place_give(&n->place, &n->account, &why) < 0) {
        give_up(n, &why);
        return;
    }
    untar_done(&n->untar);
    n->state = LOADED;
    link_send(&n->link, FRAME_LOADED, NULL, 0);
}

/* The pipe belongs to the job's account, so that it can open /dev/stdout; only to write. */
static int make_pipe(const struct native *n, int fds[2])
{
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    if (fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 || fchmod(fds[1], 0200) < 0 ||
        fchown(fds[1], n->account.uid, n->account.gid) < 0) {
        int saved = errno;

        close(fds[0]);
        close(fds[1]);
        return -saved;
    }
    return 0;
}

/* Of children that were waited for, and that is all children, sooner or later. */
static int64_t children_cpu_ms(const struct rusage *usage)
{
    return (int64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000 +
           (usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1000;
}

static void on_go(struct native *n)
{
    char **env = env_build(&n->header, n->account.name, n->place.home);
    struct spawn_spec spec = {
        .account = &n->account,
        .limits = n->header.limits,
        .dir_fd = n->place.dir_fd,
        .umask = n->header.umask,
        .argv = n->header.argv,
        .envp = env,
        .path = n->header.path,
    };
    struct rusage before;
    struct why why;
    int fds[2];
    int rc = make_pipe(n, fds);

    getrusage(RUSAGE_CHILDREN, &before);
    n->cpu_before_ms = children_cpu_ms(&before);
    if (rc == 0) {
        reaper_init(&n->reaper, n->account.uid);
        spec.out_fd = fds[1];
        rc = spawn(&spec, &n->status_fd);
        close(fds[1]);
        if (rc < 0)
            close(fds[0]);
    }
    env_done(env);
    if (rc < 0) {
        why_set(&why, "starting the job: %s", strerror(-rc));
        give_up(n, &why);
        return;
    }
    fcntl(n->status_fd, F_SETFL, O_NONBLOCK);
    n->job_fd = fds[0];
    n->reaper.main_pid = rc;
    n->started_at_ms = now_ms();
    n->deadline_ms =
        n->header.timeout_ms ? n->started_at_ms + (int64_t)n->header.timeout_ms : INT64_MAX;
    n->state = STARTING;
}

static void on_frame(struct native *n, enum frame_type type, const uint8_t *data, uint32_t len)
{
    struct why why;

    if (type == FRAME_HEARTBEAT)
        return;
    if (type == FRAME_CANCEL) {
        end_job(n, "cancelled", 0);
    } else if (type == FRAME_HEADER && n->state == HEADER) {
        on_header(n, data, len);
    } else if (type == FRAME_TAR && n->state == LOADING) {
        if (untar_feed(&n->untar, data, len, &why) < 0)
            give_up(n, &why);
    } else if (type == FRAME_TAR_END && n->state == LOADING) {
        on_tar_end(n);
    } else if (type == FRAME_GO && n->state == LOADED) {
        on_go(n);
    } else if (n->state < STARTING) {
        why_set(&why, "protocol: frame '%c' does not belong here", type);
        give_up(n, &why);
    }
    /* Later, it is a sender that does not know yet that the job is running or over: no harm. */
}

static void on_input(struct native *n)
{
    const uint8_t *data;
    enum frame_type type;
    uint32_t len;
    int rc = link_read(&n->link);

    while (rc > 0 && (rc = link_next(&n->link, &type, &data, &len)) > 0) {
        on_frame(n, type, data, len);
        n->frame_at_ms = now_ms(); /* after it: unpacking takes as long as the disk does */
    }
    if (rc == -EPROTO) {
        struct why why;

        /* The stream cannot be followed any more: as good as its end. */
        n->link.in_eof = true;
        if (n->state < STARTING) {
            why_set(&why, "protocol: not a frame");
            give_up(n, &why);
        }
    }
}

/* ---- The job ---- */

static void on_spawn_failure(struct native *n, const struct spawn_failure *failure)
{
    bool no_make = failure->step == SPAWN_STEP_EXEC && failure->error == ENOENT &&
                   strcmp(n->header.argv[0], "make") == 0;

    if (failure->step == SPAWN_STEP_EXEC)
        why_set(&n->reason, "%.100s: %s", n->header.argv[0], strerror(failure->error));
    else
        why_set(&n->reason, "setting up the job (step %d): %s", (int)failure->step,
                strerror(failure->error));
    end_job(n, no_make ? "no_make" : "exec_failed", 0);
}

static void on_status(struct native *n)
{
    struct spawn_failure failure;
    int rc = spawn_result(n->status_fd, &failure);

    if (rc == -EAGAIN)
        return;
    close(n->status_fd);
    n->status_fd = -1;
    if (rc == 0) {
        on_spawn_failure(n, &failure);
        return;
    }
    n->state = RUNNING;
    link_send(&n->link, FRAME_STARTED, NULL, 0);
}

/* SIGCHLD, or that someone outside the machine wants it to end (the job cannot signal us). */
static void on_signal(struct native *n)
{
    struct signalfd_siginfo info;

    while (read(n->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGCHLD) {
            why_set(&n->reason, "the machine was told to end (signal %u)", info.ssi_signo);
            n->link.in_eof = true;
        }
    }
}

static void look_at_children(struct native *n)
{
    if (n->state != STARTING && n->state != RUNNING)
        return;
    reaper_collect(&n->reaper);
    /* While STARTING its status pipe knows better than its exit status what happened. */
    if (n->state != RUNNING || !n->reaper.main_done)
        return;
    if (WIFSIGNALED(n->reaper.main_status))
        end_job(n, "signaled", WTERMSIG(n->reaper.main_status));
    else
        end_job(n, "exited", WEXITSTATUS(n->reaper.main_status));
}

static void kill_round(struct native *n, int64_t now)
{
    bool gone = reaper_kill(&n->reaper);

    n->kill_again_ms = now + KILL_AGAIN_MS;
    if (!gone && now < n->kill_end_ms)
        return;
    if (!gone)
        why_set(&n->reason, "some processes could not be killed");
    n->state = DRAINING;
}

/* ---- Its output ---- */

static void send_piece(struct native *n, int64_t now)
{
    if (output_due_ms(&n->output) > now || link_room(&n->link) < n->output.piece_len)
        return;
    link_send(&n->link, FRAME_OUTPUT, n->output.piece, n->output.piece_len);
    output_piece_sent(&n->output);
}

/* Reads for a while. Once nobody can write any more, "nothing there" is the end too: a writer that
 * could not be killed must not keep the report. */
static void on_output(struct native *n)
{
    int64_t now = now_ms();

    for (size_t done = 0; done < READ_BURST;) {
        ssize_t got = output_read(&n->output, n->job_fd, now);

        send_piece(n, now);
        if (got > 0) {
            done += (size_t)got;
            continue;
        }
        if (got == -ENOBUFS || (got == -EAGAIN && n->state != DRAINING))
            return;
        close(n->job_fd);
        n->job_fd = -1;
        return;
    }
}

static void send_final(struct native *n)
{
    struct group_figures group = {0};
    struct rusage usage;
    char text[1024];
    int len;

    getrusage(RUSAGE_CHILDREN, &usage);
    if (n->reaper.is_init) /* else the group is not the job's alone */
        group_read("/sys/fs/cgroup", &group);
    len = snprintf(
        text, sizeof(text),
        "outcome=%s\nstatus=%d\noutput_total=%llu\nhead=%llu\nelided=%llu\n"
        "wall_ms=%lld\ncpu_ms=%lld\nmaxrss_kb=%ld\nkilled=%u\n",
        n->outcome, n->status, (unsigned long long)n->output.total,
        (unsigned long long)output_head(&n->output), (unsigned long long)output_elided(&n->output),
        (long long)(n->ended_at_ms - n->started_at_ms),
        (long long)(children_cpu_ms(&usage) - n->cpu_before_ms), usage.ru_maxrss, n->reaper.killed);
    if (group.known)
        len += snprintf(text + len, sizeof(text) - (size_t)len, "oom_kills=%llu\npeak_kb=%llu\n",
                        (unsigned long long)group.oom_kills,
                        (unsigned long long)group.peak_bytes / 1024);
    if (n->reason.text[0] != '\0')
        snprintf(text + len, sizeof(text) - (size_t)len, "reason=%s\n", n->reason.text);
    link_send_text(&n->link, FRAME_FINAL, text);
}

/* The last piece, the tail and the final record, as the pipe takes them. */
static void send_tail(struct native *n)
{
    const uint8_t *data;
    size_t len;

    if (n->output.piece_len > 0) {
        if (link_room(&n->link) < n->output.piece_len)
            return;
        link_send(&n->link, FRAME_OUTPUT, n->output.piece, n->output.piece_len);
        output_piece_sent(&n->output);
    }
    while (link_room(&n->link) >= OUTPUT_PIECE) {
        len = output_tail(&n->output, &data);
        if (len == 0) {
            send_final(n);
            leave(n);
            return;
        }
        link_send(&n->link, FRAME_OUTPUT, data, len);
    }
}

/* ---- The loop ---- */

static bool lease_over(const struct native *n, int64_t now)
{
    return n->state > HEADER && n->header.lease_ms && !n->out_of_touch &&
           now >= n->frame_at_ms + (int64_t)n->header.lease_ms;
}

static void nearest(int64_t *at, int64_t candidate)
{
    if (candidate < *at)
        *at = candidate;
}

static int poll_timeout(const struct native *n, int64_t now)
{
    int64_t at = INT64_MAX;

    if (n->link.in_eof && !n->out_of_touch) /* found while writing, not yet acted upon */
        return 0;
    if (n->state > HEADER && n->header.lease_ms && !n->out_of_touch)
        nearest(&at, n->frame_at_ms + (int64_t)n->header.lease_ms);
    if (n->state == STARTING || n->state == RUNNING)
        nearest(&at, n->deadline_ms);
    if (n->state == KILLING)
        nearest(&at, n->kill_again_ms);
    if (n->state == LEAVING)
        nearest(&at, n->leave_end_ms);
    if (link_room(&n->link) >= OUTPUT_PIECE)
        nearest(&at, output_due_ms(&n->output));
    if (at == INT64_MAX)
        return -1;
    if (at <= now)
        return 0;
    return at - now > 3600 * 1000 ? 3600 * 1000 : (int)(at - now);
}

/* Whether there is room for what the job writes; without it we leave it in the job's pipe, and the
 * job waits there, until its deadline at the latest. */
static bool wants_output(const struct native *n)
{
    return n->job_fd >= 0 && n->state >= RUNNING && n->state != KILLING &&
           (n->output.piece_len == 0 || output_due_ms(&n->output) > 0 ||
            link_room(&n->link) >= n->output.piece_len);
}

static void on_timers(struct native *n)
{
    int64_t now = now_ms();

    if (n->link.in_eof)
        lose_touch(n, "lease_lost");
    /* We may have been the one who slept: what waits in the pipe counts. */
    if (lease_over(n, now) && !n->link.in_eof)
        on_input(n);
    if (lease_over(n, now)) {
        if (n->reason.text[0] == '\0')
            why_set(&n->reason, "no frame came for %llu ms",
                    (unsigned long long)n->header.lease_ms);
        lose_touch(n, "lease_lost");
    }
    if ((n->state == STARTING || n->state == RUNNING) && now >= n->deadline_ms)
        end_job(n, "timed_out", 0);
    if (n->state == KILLING && now >= n->kill_again_ms)
        kill_round(n, now);
    if (n->state == DRAINING && n->job_fd >= 0)
        on_output(n);
    if (n->state == DRAINING && n->job_fd < 0)
        n->state = TAIL;
    send_piece(n, now);
    if (n->state == TAIL)
        send_tail(n);
}

static bool is_over(const struct native *n)
{
    if (n->state == HEADER)
        return n->link.in_eof;
    if (n->state != LEAVING)
        return false;
    return n->link.out_len == 0 || now_ms() >= n->leave_end_ms;
}

/* Also without anything to write: a vmm that cannot hear us is gone, whatever it still says. */
static struct pollfd out_pollfd(const struct link *l)
{
    return (struct pollfd){
        .fd = l->in_eof && l->out_len == 0 ? -1 : l->out_fd,
        .events = l->out_len > 0 ? POLLOUT : 0,
    };
}

static void loop(struct native *n)
{
    enum { IN, SIGNAL, OUT, STATUS, JOB, FD_CT };

    while (!is_over(n)) {
        struct pollfd fds[FD_CT] = {
            [IN] = {.fd = n->link.in_eof ? -1 : n->link.in_fd, .events = POLLIN},
            [SIGNAL] = {.fd = n->signal_fd, .events = POLLIN},
            [OUT] = out_pollfd(&n->link),
            [STATUS] = {.fd = n->status_fd, .events = POLLIN},
            [JOB] = {.fd = wants_output(n) ? n->job_fd : -1, .events = POLLIN},
        };

        if (poll(fds, FD_CT, poll_timeout(n, now_ms())) < 0 && errno != EINTR)
            abort(); /* only wrong arguments are left */
        if (fds[OUT].revents & (POLLERR | POLLHUP))
            n->link.in_eof = true;
        if (fds[IN].revents && !n->link.in_eof)
            on_input(n);
        if (fds[SIGNAL].revents)
            on_signal(n);
        if (fds[STATUS].revents && n->status_fd >= 0)
            on_status(n);
        look_at_children(n);
        if (fds[JOB].revents && n->job_fd >= 0 && n->state == RUNNING)
            on_output(n);
        if (n->state != HEADER)
            on_timers(n);
        link_flush(&n->link);
    }
}

/* Our pipe moves out of the way of the job's descriptors, and whatever else we were given is
 * closed. 0 or -errno. */
static int take_pipe(struct native *n)
{
    int in_fd, out_fd, null_fd;

    close_from(3);
    in_fd = fcntl(0, F_DUPFD_CLOEXEC, 10);
    out_fd = fcntl(1, F_DUPFD_CLOEXEC, 10);
    null_fd = null_open(O_RDWR);
    if (in_fd < 0 || out_fd < 0 || null_fd < 0)
        return -EBADF;
    for (int fd = 0; fd < 3; fd++)
        if (dup2(null_fd, fd) < 0)
            return -errno;
    close(null_fd);
    return link_init(&n->link, in_fd, out_fd);
}

static int take_signals(struct native *n)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    signal(SIGPIPE, SIG_IGN);
    /* Blocked before anything is started: to pid 1, a signal that is neither blocked nor handled
     * does not even arrive. */
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    n->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return n->signal_fd < 0 ? -errno : 0;
}

int native_main(void)
{
    struct native *n = calloc(1, sizeof(*n));
    struct why why;
    char ready[64];

    if (!n || take_pipe(n) < 0 || take_signals(n) < 0)
        return NATIVE_EXIT_ERROR;
    n->status_fd = -1;
    n->job_fd = -1;
    n->place.dir_fd = -1;
    n->unpack.file_fd = -1;
    n->frame_at_ms = now_ms();
    umask(022);

    if (getuid() != 0 || geteuid() != 0) {
        why_set(&why, "not root: the job could not be kept apart from its driver");
        give_up(n, &why);
    } else {
        snprintf(ready, sizeof(ready), "version=%d\npid1=%d\n", FRAME_VERSION, getpid() == 1);
        link_send_text(&n->link, FRAME_READY, ready);
        link_flush(&n->link);
    }
    loop(n);

    unpack_done(&n->unpack);
    untar_done(&n->untar);
    output_done(&n->output);
    place_done(&n->place);
    link_done(&n->link);
    if (n->failed)
        return NATIVE_EXIT_ERROR;
    return n->out_of_touch ? NATIVE_EXIT_LOST : NATIVE_EXIT_OK;
}
