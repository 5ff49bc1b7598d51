/* Tango's autodriver, on the same means as the native one. The lines and codes are Tango's; where
 * it differs:
 *
 *   - All of the grading user's processes are killed at once, with SIGKILL, when make ends or its
 * time is up, before anything is printed. (There: SIGINT, then 3 s, after printing, and make alone
 * at the timeout, which a job could stop by SIGSTOP and SIGCONT.)
 *   - The output file is made by root in a directory that the job cannot rename entries of that are
 * not its own (sticky, root's for the time of the job), and is read through the descriptor that it
 * was made with. So neither we nor whoever reads ~autograde/output.log meanwhile can be led
 * elsewhere.
 *   - make killed by signal N is told as exit status 128+N. (There: 0.)
 *   - The job gets a clean environment with the caller's PATH, LANG, LC_ALL and TZ; stdin is
 * /dev/null; it cannot gain privileges through setuid programs.
 *   - Only a directory that the caller owns, or could move himself, is given to the job.
 *   - Files are moved, given and removed by descriptor, not by programs that are found by PATH. */

#include "tango.h"

#include "account.h"
#include "header.h"
#include "reaper.h"
#include "spawn.h"
#include "tango_args.h"
#include "tree.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GRADING_USER "autograde"
#define OUTPUT_FILE  "output.log"
#define ELISION      "\n...[excess bytes elided]...\n"
#define KILL_MOST_MS 20000

enum { EXIT_FINISHED = 0, EXIT_BAD_USAGE = 1, EXIT_TIMED_OUT = 2, EXIT_OSERROR = 3 };

/* Tango's format of an error, on its stdout; with `error`, an errno, or without. */
#define SAY(message)              say_error(message, __LINE__, 0)
#define SAY_ERRNO(message, error) say_error(message, __LINE__, error)

struct tango {
    struct tango_args args;
    struct account account;
    struct reaper reaper;
    uid_t caller;
    bool caller_may_move; /* entries of the working directory, with his own rights */
    int home_fd;
    mode_t home_mode; /* as it was */
    int dir_fd;
    int out_fd;
    bool timed_out;
    int interrupted; /* the signal that told us to end, or 0 */
    bool unkillable;
    struct spawn_failure failure; /* step 0: make was started */
};

static void say(const char *text)
{
    write_all(STDOUT_FILENO, text, strlen(text));
}

static void say_error(const char *message, int line, int error)
{
    char text[512];

    snprintf(text, sizeof(text), "Autodriver: %s at line %d%s%s\n", message, line,
             error ? ": " : "", error ? strerror(error) : "");
    say(text);
}

/* ---- Before the job ---- */

/* Root in every id, so that the caller cannot signal us any more, with nothing of his in our hands.
 */
static int become_root(struct tango *t)
{
    struct stat st;
    sigset_t set;

    /* access() judges by the real ids, which are still his. */
    t->caller_may_move = access(".", W_OK | X_OK) == 0 && stat(".", &st) == 0 &&
                         (st.st_uid == t->caller || !(st.st_mode & S_ISVTX));
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) {
        SAY_ERRNO("Unable to become root", errno);
        return -1;
    }
    close_from(3);
    umask(022);
    signal(SIGPIPE, SIG_IGN); /* whoever reads us may leave; what is to be cleaned is cleaned */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return 0;
}

/* The home for the time of the job: root's, writable for the job's group, and sticky. */
static int take_home(struct tango *t)
{
    struct stat st;

    t->home_fd = open(t->account.home, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (t->home_fd < 0 || fstat(t->home_fd, &st) < 0) {
        SAY_ERRNO("Error changing directories", errno);
        return -1;
    }
    /* After a run that was cut off it is root's and sticky still; then 0755 is what most had. */
    t->home_mode = st.st_uid == 0 && (st.st_mode & S_ISVTX) ? 0755 : st.st_mode & 0777;
    if (fchown(t->home_fd, 0, t->account.gid) < 0 ||
        fchmod(t->home_fd, S_ISVTX | 0770 | (t->home_mode & 0005)) < 0) {
        SAY_ERRNO("Error changing directories", errno);
        return -1;
    }
    return 0;
}

/* A plain name, as Tango's chown needed it to be; slashes at the end are forgiven. */
static int directory_name(struct tango *t, char *out, size_t cap)
{
    size_t len = strlen(t->args.directory);

    while (len > 1 && t->args.directory[len - 1] == '/')
        len--;
    if (len == 0 || len >= cap)
        return -ENAMETOOLONG;
    memcpy(out, t->args.directory, len);
    out[len] = '\0';
    if (strchr(out, '/') || strcmp(out, ".") == 0 || strcmp(out, "..") == 0)
        return -EINVAL;
    return 0;
}

static int check_source(const struct tango *t, const char *name)
{
    struct stat st;

    if (fstatat(AT_FDCWD, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    return st.st_uid == t->caller || t->caller_may_move ? 0 : -EPERM;
}

static int take_directory(struct tango *t)
{
    char name[256];
    struct stat st;
    int rc = directory_name(t, name, sizeof(name));

    if (rc == 0)
        rc = check_source(t, name);
    /* What an earlier job that was cut off left under that name. */
    if (rc == 0 && fstatat(t->home_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_uid == t->account.uid)
        rc = tree_remove(t->home_fd, name);
    if (rc == 0)
        rc = tree_move(AT_FDCWD, name, t->home_fd, t->caller);
    if (rc < 0) {
        SAY_ERRNO("Error moving directory", -rc);
        return -1;
    }
    t->dir_fd = openat(t->home_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (t->dir_fd < 0) {
        SAY_ERRNO("Error changing directories", errno);
        return -1;
    }
    rc = tree_give(t->dir_fd, t->caller, t->account.uid, t->account.gid);
    if (rc < 0) {
        SAY_ERRNO("Error chowining directory", -rc); /* sic: programs look for it */
        return -1;
    }
    return 0;
}

static int make_output(struct tango *t)
{
    int rc = tree_remove(t->home_fd, OUTPUT_FILE);

    if (rc == 0 || rc == -ENOENT) {
        t->out_fd = openat(t->home_fd, OUTPUT_FILE,
                           O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        /* The group may write, so that a job can open its /dev/stdout. */
        rc =
            t->out_fd < 0 || fchown(t->out_fd, 0, t->account.gid) < 0 || fchmod(t->out_fd, 0664) < 0
                ? -errno
                : 0;
    }
    if (rc < 0) {
        SAY_ERRNO("Error opening output file", -rc);
        return -1;
    }
    return 0;
}

/* ---- The job ---- */

static char **job_env(const struct account *account)
{
    static const char *const kept[] = {"LANG", "LC_ALL"};
    struct header *h = calloc(1, sizeof(*h));
    const char *value;
    struct why why;
    char **env;
    char *at;
    size_t ct = 0;

    if (!h || header_parse(h, "", 0, &why) < 0)
        abort();
    at = h->env_text;
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        size_t left = (size_t)(h->env_text + sizeof(h->env_text) - at);
        int len;

        value = getenv(kept[i]);
        len = value ? snprintf(at, left, "%s=%s", kept[i], value) : 0;
        if (len <= 0 || (size_t)len >= left)
            continue;
        h->env[ct++] = at;
        at += len + 1;
    }
    if ((value = getenv("PATH")) != NULL && strlen(value) < sizeof(h->path))
        strcpy(h->path, value);
    if ((value = getenv("TZ")) != NULL && strlen(value) < sizeof(h->tz))
        strcpy(h->tz, value);
    env = env_build(h, account->name, account->home);
    free(h);
    return env;
}

static int start(struct tango *t)
{
    static char make[] = "make";
    char *const argv[] = {make, NULL};
    char **env = job_env(&t->account);
    const struct spawn_spec spec = {
        .account = &t->account,
        .limits = {.nproc = t->args.nproc, .fsize_bytes = t->args.fsize},
        .dir_fd = t->dir_fd,
        .out_fd = t->out_fd,
        .umask = 022,
        .argv = argv,
        .envp = env,
        .path = "/usr/bin",
    };
    int status_fd;
    pid_t pid = spawn(&spec, &status_fd);

    env_done(env);
    if (pid < 0) {
        SAY_ERRNO("Unable to fork", -pid);
        return -1;
    }
    t->reaper.main_pid = pid;
    spawn_result(status_fd, &t->failure);
    close(status_fd);
    return 0;
}

/* Until make ends, its time is up, or we are told to end. */
static void wait_for_job(struct tango *t)
{
    int64_t deadline = now_ms() + (int64_t)t->args.timeout * 1000;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    for (;;) {
        int64_t left = t->args.timeout ? deadline - now_ms() : 3600 * 1000;
        struct timespec most = {.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000};
        int sig;

        reaper_collect(&t->reaper);
        if (t->reaper.main_done)
            return;
        if (left <= 0) {
            t->timed_out = true;
            return;
        }
        sig = sigtimedwait(&set, NULL, &most);
        if (sig > 0 && sig != SIGCHLD) {
            t->interrupted = sig;
            return;
        }
    }
}

/* ---- After it ---- */

/* What a child that never became make would have written to its output. */
static const char *step_message(int step)
{
    switch (step) {
    case SPAWN_STEP_NPROC:
        return "Error setting process limit";
    case SPAWN_STEP_FSIZE:
        return "Error setting filesize limit";
    case SPAWN_STEP_GROUPS:
        return "Error setting supplementary group IDs";
    case SPAWN_STEP_GID:
        return "Error setting group ID";
    case SPAWN_STEP_UID:
        return "Error setting user ID";
    case SPAWN_STEP_STDIO:
        return "Error redirecting standard output";
    case SPAWN_STEP_DIR:
        return "Error changing directory";
    case SPAWN_STEP_EXEC:
        return "Error executing make";
    default:
        return "Error setting up the job";
    }
}

static void say_status(const struct tango *t)
{
    char text[128];
    int status = t->reaper.main_status;

    if (t->timed_out) {
        snprintf(text, sizeof(text), "Autodriver: Job timed out after %u seconds\n",
                 t->args.timeout);
        say(text);
        return;
    }
    if (t->interrupted) {
        SAY("Error reaping child: told to end");
        return;
    }
    if (t->failure.step)
        status = EXIT_OSERROR;
    else
        status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    snprintf(text, sizeof(text), "Autodriver: Job exited with status %d\n", status);
    say(text);
    if (t->failure.step)
        SAY_ERRNO(step_message(t->failure.step), t->failure.error);
}

static int dump_range(const struct tango *t, off_t at, off_t end)
{
    char buf[65536];

    while (at < end) {
        size_t want = end - at < (off_t)sizeof(buf) ? (size_t)(end - at) : sizeof(buf);
        ssize_t n = pread(t->out_fd, buf, want, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            SAY_ERRNO("Error reading from output file", errno);
            return -1;
        }
        if (n == 0) /* shorter than it was: someone who could not be killed; what is gone is gone */
            return 0;
        if (write_all(STDOUT_FILENO, buf, (size_t)n) < 0) {
            SAY_ERRNO("Error writing output", errno);
            return -1;
        }
        at += n;
    }
    return 0;
}

static int dump_output(const struct tango *t)
{
    off_t half = t->args.osize / 2;
    struct stat st;

    if (fstat(t->out_fd, &st) < 0) {
        SAY_ERRNO("Error stating output file", errno);
        return -1;
    }
    if (t->args.osize == 0 || st.st_size <= (off_t)t->args.osize)
        return dump_range(t, 0, st.st_size);
    if (dump_range(t, 0, half) < 0)
        return -1;
    say(ELISION);
    return dump_range(t, st.st_size - half, st.st_size);
}

/* Everything of the grading user's in the places where he could write. */
static int clean_up(const struct tango *t)
{
    static const char *const places[] = {"/tmp", "/var/tmp", "/dev/shm"};
    int rc = tree_remove_owned(t->home_fd, t->account.uid);

    if (t->out_fd >= 0 && unlinkat(t->home_fd, OUTPUT_FILE, 0) < 0 && errno != ENOENT && rc == 0)
        rc = -errno;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        int fd = open(places[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int one;

        if (fd < 0) /* an image without it has nothing there */
            continue;
        one = tree_remove_owned(fd, t->account.uid);
        close(fd);
        if (rc == 0)
            rc = one;
    }
    if (rc < 0) {
        SAY("Error deleting user's files");
        return -1;
    }
    return 0;
}

static int give_back_home(const struct tango *t)
{
    if (fchmod(t->home_fd, t->home_mode) < 0 ||
        fchown(t->home_fd, t->account.uid, t->account.gid) < 0) {
        SAY_ERRNO("Error changing directories", errno);
        return -1;
    }
    return 0;
}

/* From make's start to its output on ours. The exit code. */
static int run(struct tango *t)
{
    int code = EXIT_FINISHED;

    if (take_directory(t) < 0 || make_output(t) < 0 || start(t) < 0)
        return EXIT_OSERROR;
    wait_for_job(t);
    if (t->timed_out)
        code = EXIT_TIMED_OUT;
    else if (t->interrupted)
        code = EXIT_OSERROR;
    t->unkillable = !reaper_kill_wait(&t->reaper, KILL_MOST_MS);
    say_status(t);
    if (dump_output(t) < 0)
        code = EXIT_OSERROR;
    return code;
}

static int grade(struct tango *t)
{
    int code = EXIT_OSERROR;

    reaper_init(&t->reaper, t->account.uid);
    t->unkillable = !reaper_kill_wait(&t->reaper, KILL_MOST_MS); /* of a run that was cut off */
    if (!t->unkillable) {
        if (take_home(t) < 0)
            return EXIT_OSERROR;
        code = run(t);
    }
    if (t->unkillable) {
        /* Nothing is removed under someone's hands; and the home stays root's. */
        SAY("Gave up killing user processes");
        return EXIT_OSERROR;
    }
    if (clean_up(t) < 0)
        code = EXIT_OSERROR;
    if (give_back_home(t) < 0)
        code = EXIT_OSERROR;
    return code;
}

int tango_main(int argc, char **argv)
{
    struct tango t = {.caller = getuid(), .home_fd = -1, .dir_fd = -1, .out_fd = -1};
    int code = EXIT_BAD_USAGE;

    if (t.caller == 0) {
        say("Autodriver: Autodriver should not be run as root.\n");
        return EXIT_BAD_USAGE;
    }
    if (account_find("/etc", GRADING_USER, &t.account) < 0 || t.account.uid == 0 ||
        t.account.home[0] == '\0') {
        SAY("Invalid grading user");
        return EXIT_OSERROR;
    }
    if (t.account.uid == t.caller) {
        SAY("This should not be run as the grading user " GRADING_USER);
        return EXIT_BAD_USAGE;
    }
    if (tango_args_parse(argc, argv, &t.args, &code) < 0)
        return code;
    if (become_root(&t) < 0)
        return EXIT_OSERROR;
    return grade(&t);
}
