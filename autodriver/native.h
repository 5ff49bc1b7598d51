#ifndef AUTODRIVER_NATIVE_H
#define AUTODRIVER_NATIVE_H

/* `autodriver --pipe`: one job over the framed pipe on stdin and stdout (docs/protocol.md, "The
 * pipe"). Returns the exit code. */

enum native_exit {
    NATIVE_EXIT_OK = 0, /* the final record was written, or the pipe ended before there was a job */
    NATIVE_EXIT_ERROR = 3, /* a Q frame says why */
    NATIVE_EXIT_LOST = 4,  /* the pipe or the lease ended under a job, which was killed */
};

int native_main(void);

#endif
