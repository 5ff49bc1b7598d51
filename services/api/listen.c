#include "services/api/listen.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG  1024
#define GIVEN_FD 3 /* sd_listen_fds(3): the first of LISTEN_FDS */

/* ---- handed to us ---- */

/* How many descriptors this very process was given; the variables are gone after it, so that nobody
 * whom we start takes them for its own. */
static long given_ct(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    long ct = 0;

    if (pid && fds && strtol(pid, NULL, 10) == (long)getpid())
        ct = strtol(fds, NULL, 10);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return ct;
}

static bool is_listening(int fd)
{
    int type = 0, accepts = 0;
    socklen_t len = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
        return false;
    len = sizeof(accepts);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) == 0 && accepts;
}

/* The socket that we were given, -ENOENT when none was. */
static int take_given(struct error *err)
{
    long ct = given_ct();

    if (ct <= 0)
        return -ENOENT;
    if (ct != 1)
        return err_set(err, ERR_PERMANENT, E2BIG,
                       "LISTEN_FDS gives %ld sockets; the api listens on one: leave a single "
                       "ListenStream= in its socket unit",
                       ct);
    if (!is_listening(GIVEN_FD))
        return err_set(err, ERR_PERMANENT, EINVAL,
                       "LISTEN_FDS: descriptor %d is not a listening stream socket; give "
                       "ListenStream= with Accept=no in the socket unit",
                       GIVEN_FD);
    if (fcntl(GIVEN_FD, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(GIVEN_FD, F_SETFL, fcntl(GIVEN_FD, F_GETFL) | O_NONBLOCK) < 0)
        return err_set_errno(err, ERR_PERMANENT, errno, "LISTEN_FDS: descriptor %d", GIVEN_FD);
    log_event(LOG_INFO_, "api.socket_given", "reason",
              "the listening socket is the service manager's; listen_host and port do not count",
              NULL);
    return GIVEN_FD;
}

/* ---- our own ---- */

static int listen_on(const struct addrinfo *ai)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, e;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    e = errno;
    close(fd);
    return -e;
}

static int listen_own(const struct config *cfg, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list, *ai;
    const char *host = cfg->listen_host;
    char port[16];
    int r, fd = -EADDRNOTAVAIL;

    snprintf(port, sizeof(port), "%lld", (long long)cfg->port);
    r = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    if (r != 0)
        return err_set(err, ERR_PERMANENT, EADDRNOTAVAIL, "listen_host %s: %s", host,
                       gai_strerror(r));
    for (ai = list; ai; ai = ai->ai_next) {
        fd = listen_on(ai);
        if (fd >= 0)
            break;
    }
    freeaddrinfo(list);
    if (fd >= 0)
        return fd;
    return err_set_errno(err, ERR_PERMANENT, -fd,
                         "can not listen on %s port %s; set `port` to a free one%s", host, port,
                         fd == -EACCES ? " above 1023" : "");
}

int listen_open(const struct config *cfg, struct error *err)
{
    int fd = take_given(err);

    return fd == -ENOENT ? listen_own(cfg, err) : fd;
}
