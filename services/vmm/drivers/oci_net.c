#include "services/vmm/drivers/oci_private.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A machine's network is a program, slirp4netns: a user-mode NAT between an interface in the
 * machine's own network namespace and sockets of this host. Nothing of the host is configured for
 * it, nothing can connect to the machine, and 127.0.0.1 of the host is out of reach. It shuts
 * itself into an empty mount namespace behind a seccomp filter. What the host itself can reach
 * otherwise, the machine can. No IPv6. */

#define REASON "slirp.log" /* its stderr, in the bundle */

static int read_pid(const struct oci_bundle *b, char out[24])
{
    cleanup_close int fd = openat(b->fd, OCI_PID_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, 23) : -1;

    if (n <= 0)
        return -EIO;
    out[strspn(out, "0123456789")] = '\0';
    return out[0] != '\0' ? 0 : -EIO;
}

static void last_line(const struct oci_bundle *b, char out[200])
{
    cleanup_close int fd = openat(b->fd, REASON, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, 199) : 0;

    out[n > 0 ? n : 0] = '\0';
    for (char *c = out; *c != '\0'; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
}

/* It writes a byte when the interface is up. */
static int await_ready(int fd, const struct oci_bundle *b, int64_t deadline, int cancel_fd,
                       struct error *err)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
    char byte, why[200];
    int n;

    do
        n = poll(p, 2, clock_until_ms(deadline));
    while (n < 0 && errno == EINTR);
    if (n > 0 && p[0].revents != 0 && read(fd, &byte, 1) == 1)
        return 0;
    if (n > 0 && p[0].revents == 0)
        return err_set(err, ERR_TEMPORARY, ECANCELED, "oci: cancelled");
    last_line(b, why);
    return err_set(err, ERR_TEMPORARY, n == 0 ? ETIMEDOUT : EIO,
                   "oci: slirp4netns gave the machine no network: %s", why);
}

int oci_net_start(const char *slirp, const struct oci_bundle *b, const struct cgroup *group,
                  int64_t deadline, int cancel_fd, struct oci_net *ret, struct error *err)
{
    char pid_text[24] = "";
    const char *argv[] = {"slirp4netns",
                          "--configure",
                          "--mtu=65520",
                          "--disable-host-loopback",
                          "--enable-sandbox",
                          "--enable-seccomp",
                          "--exit-fd=0",
                          "--ready-fd=1",
                          pid_text,
                          "tap0",
                          NULL};
    cleanup_close int log =
        openat(b->fd, REASON, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int hold[2] = {-1, -1}, ready[2] = {-1, -1}, r;
    pid_t pid;

    if (log < 0 || pipe2(hold, O_CLOEXEC) < 0 || pipe2(ready, O_CLOEXEC) < 0)
        r = err_set_errno(err, ERR_TEMPORARY, errno, "oci: cannot start slirp4netns");
    else if ((r = read_pid(b, pid_text)) < 0)
        err_set_errno(err, ERR_TEMPORARY, -r, "oci: crun left no pid in %s", b->path);
    else
        r = oci_launch(&(struct oci_launch){slirp, argv, group, hold[0], ready[1], log, 0, 0, NULL},
                       &pid, &ret->pidfd, err);
    if (hold[0] >= 0)
        close(hold[0]);
    if (ready[1] >= 0)
        close(ready[1]);
    if (r == 0) {
        ret->hold_fd = hold[1];
        hold[1] = -1;
        r = await_ready(ready[0], b, deadline, cancel_fd, err);
    }
    if (hold[1] >= 0)
        close(hold[1]);
    if (ready[0] >= 0)
        close(ready[0]);
    return r;
}

void oci_net_stop(struct oci_net *n)
{
    siginfo_t info;

    if (n->hold_fd >= 0)
        close(n->hold_fd);
    n->hold_fd = -1;
    if (n->pidfd < 0)
        return;
    syscall(SYS_pidfd_send_signal, n->pidfd, SIGKILL, NULL, 0);
    while (waitid(P_PIDFD, (id_t)n->pidfd, &info, WEXITED) < 0 && errno == EINTR)
        continue;
    close(n->pidfd);
    n->pidfd = -1;
}
