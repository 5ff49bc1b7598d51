/* The autodriver: what stands beside a job in its machine. Two fronts to the same means: `--pipe`
 * for Milonga's vmm (native.c), anything else for Tango's (tango.c), so that it can replace Tango's
 * in an image. */

#include "native.h"
#include "tango.h"
#include "util.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Not dumpable: /proc/PID of ours is root's and ptrace asks for CAP_SYS_PTRACE, also while our ids
 * are for a moment the job's. And the last to go when memory runs out; spawn() takes that from the
 * job. */
static void autodriver_harden(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        write_all(fd, "-999", 4); /* only where the machine lets us */
        close(fd);
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

int main(int argc, char **argv)
{
    if (stdio_ensure() < 0)
        return 3;
    autodriver_harden();
    if (argc == 2 && strcmp(argv[1], "--pipe") == 0)
        return native_main();
    return tango_main(argc, argv);
}
