#include "run.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OUT_MAX  (4 << 20)
#define SAID_MAX 300

static _Noreturn void become(const char *const *argv, const int fds[3])
{
    sigset_t none;

    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], (char *const *)argv);
    _exit(127);
}

int run_wait(pid_t pid, int64_t deadline, int *ret_status)
{
    cleanup_close int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (fd < 0)
        return -errno;
    for (;;) {
        int n = poll(&p, 1, clock_until_ms(deadline));

        if (n > 0)
            return waitpid(pid, ret_status, 0) < 0 ? -errno : 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* Until its end of both; what passes the bounds is dropped. */
static int drain(int out_fd, int err_fd, struct buf *out, char said[SAID_MAX], int64_t deadline)
{
    struct pollfd fds[2] = {{.fd = out_fd, .events = POLLIN}, {.fd = err_fd, .events = POLLIN}};
    size_t len = 0;

    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
        char chunk[4096];
        int n = poll(fds, 2, clock_until_ms(deadline));

        if (n == 0)
            return -ETIMEDOUT;
        for (int i = 0; i < 2 && n > 0; i++) {
            if (!fds[i].revents)
                continue;
            ssize_t got = read(fds[i].fd, chunk, sizeof(chunk));
            if (got <= 0)
                fds[i].fd = -1;
            else if (i == 0)
                buf_append(out, chunk, (size_t)got);
            for (ssize_t k = 0; i == 1 && k < got && len < SAID_MAX - 1; k++)
                said[len++] = (unsigned char)chunk[k] < ' ' ? ' ' : chunk[k];
        }
    }
    said[len] = '\0';
    return 0;
}

int run_program(const char *const *argv, int64_t deadline, char **ret_out, struct error *err)
{
    cleanup_buf struct buf out = BUF_INIT(OUT_MAX);
    cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    char said[SAID_MAX] = "";
    int o[2], e[2], status = 0;

    if (null < 0 || pipe2(o, O_CLOEXEC) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s", argv[0]);
    cleanup_close int out_fd = o[0];
    if (pipe2(e, O_CLOEXEC) < 0) {
        close(o[1]);
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s", argv[0]);
    }
    cleanup_close int err_fd = e[0];
    pid_t pid = fork();
    if (pid == 0)
        become(argv, (const int[]){null, o[1], e[1]});
    close(o[1]);
    close(e[1]);
    if (pid < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s", argv[0]);
    int r = drain(out_fd, err_fd, &out, said, deadline);
    if (r == 0)
        r = run_wait(pid, deadline, &status);
    if (r < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return err_set_errno(err, ERR_TEMPORARY, -r, "%s %s", argv[0], argv[1]);
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(err, ERR_TEMPORARY, EIO, "%s %s: %s", argv[0], argv[1],
                       said[0] ? said
                       : WIFEXITED(status) && WEXITSTATUS(status) == 127
                           ? "there is no such program"
                           : "failed without a word");
    if (ret_out)
        *ret_out = buf_detach(&out);
    return 0;
}
