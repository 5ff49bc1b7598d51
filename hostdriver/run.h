#ifndef HOSTDRIVER_RUN_H
#define HOSTDRIVER_RUN_H

/* Programs of the host, as argv arrays: the client of a container engine. */

#include "base/err.h"

#include <stdint.h>
#include <sys/types.h>

/* Runs argv (found in PATH) with no input to its end, killed at the deadline. *ret_out (may be
 * NULL) is what it wrote to stdout, at most 4 MB, the caller's to free. When it fails, the error
 * has the last of what it said. */
int run_program(const char *const *argv, int64_t deadline, char **ret_out, struct error *err);

/* Waits for a child until the deadline; -ETIMEDOUT, the child then still being there. */
int run_wait(pid_t pid, int64_t deadline, int *ret_status);

#endif
