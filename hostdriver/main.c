/* Runs on a host over ssh, for a vmm; see host.h. */

#include "host.h"
#include "keep.h"
#include "machine.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Holds a connection open for the sessions that it carries. Without it ending by itself, a host
 * that was cut off would keep it for as long as its sshd does. */
static int hold_main(const char *dir, const char *epoch)
{
    struct error err = ERROR_INIT;
    struct host h;
    char text[256];
    int keeper = -1;

    int r = host_open(dir, false, &h, &err);
    if (r == 0)
        r = host_find_keeper(&h, epoch, &keeper, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    for (;;) {
        struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.fd = keeper, .events = POLLIN}};
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return 1;
        if (p[1].revents)
            return 0;
        ssize_t n = p[0].revents ? read(0, text, sizeof(text)) : -1;
        if (n == 0 || (n > 0 && write_all(1, text, (size_t)n) < 0))
            return 0;
    }
}

int main(int argc, char **argv)
{
    /* so that no descriptor of ours can be taken for one of these */
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return 3;
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    if (chdir("/") == 0 && argc == 3 && strcmp(argv[1], "keep") == 0)
        return keep_main(argv[2]);
    if (argc > 3 && strcmp(argv[1], "machine") == 0)
        return machine_main(argv[2], argv + 3);
    if (argc == 4 && strcmp(argv[1], "hold") == 0)
        return hold_main(argv[2], argv[3]);
    fprintf(stderr, "usage: hostdriver keep DIR | machine DIR key=value... | hold DIR EPOCH\n"
                    "(started by a Milonga vmm; see docs/ssh.md)\n");
    return 2;
}
