/* Runs on a host over ssh, for a vmm; see host.h. */

#include "keep.h"
#include "machine.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
    fprintf(stderr, "usage: hostdriver keep DIR | machine DIR key=value...\n"
                    "(started by a Milonga vmm; see docs/ssh.md)\n");
    return 2;
}
